//! The body of a request, kept so that it can be sent more than once.

use std::sync::Arc;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, EXPECT};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::options::Options;
use crate::refusal::Refusal;

/// A body, with its share of what all bodies together may hold.
pub(crate) struct Buffered {
    pub(crate) bytes: Bytes,
    _share: Option<OwnedSemaphorePermit>,
}

/// Of a body that is too large so much more is read and thrown away, in multiples of the limit.
const DISCARDED: usize = 3;

/// Reads a body to its end. `room` has a permit for each byte that may be held.
pub(crate) async fn read(
    headers: &HeaderMap,
    mut body: Body,
    options: &Options,
    room: &Arc<Semaphore>,
) -> Result<Buffered, Refusal> {
    let limit = options.max_body_bytes;
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let is_announced_too_large = announced.is_some_and(|length| length > limit as u64);
    if is_announced_too_large && headers.contains_key(EXPECT) {
        // It has not been sent, and shall not be.
        return Err(Refusal::TooLarge { limit });
    }
    let reading = async {
        let outcome = if is_announced_too_large {
            Err(Refusal::TooLarge { limit })
        } else {
            collect(&mut body, limit, room, options.max_buffered_bytes).await
        };
        if matches!(outcome, Err(Refusal::TooLarge { .. } | Refusal::Full { .. })) {
            discard(&mut body, limit.saturating_mul(DISCARDED)).await;
        }
        outcome
    };
    let seconds = options.body_timeout.as_secs_f64();
    timeout(options.body_timeout, reading).await.unwrap_or(Err(Refusal::Slow { seconds }))
}

async fn collect(body: &mut Body, limit: usize, room: &Arc<Semaphore>, all: usize) -> Result<Buffered, Refusal> {
    let mut bytes = BytesMut::new();
    let mut share: Option<OwnedSemaphorePermit> = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Refusal::Cut(error.to_string()))?;
        // Trailers are not passed on: nothing that we serve has any.
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > limit - bytes.len() {
            return Err(Refusal::TooLarge { limit });
        }
        let full = || Refusal::Full { limit: all };
        let permits = u32::try_from(data.len()).map_err(|_| full())?;
        // Nobody waits for room: whoever waits holds some.
        let more = room.clone().try_acquire_many_owned(permits).map_err(|_| full())?;
        match &mut share {
            Some(share) => share.merge(more),
            None => share = Some(more),
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Buffered { bytes: bytes.freeze(), _share: share })
}

/// Reads what nobody wants. A client that still sends when its connection is closed would see a fault of the network, and
/// not the answer that says what is wrong.
async fn discard(body: &mut Body, at_most: usize) {
    let mut discarded = 0;
    while let Some(Ok(frame)) = body.frame().await {
        discarded += frame.data_ref().map_or(0, Bytes::len);
        if discarded > at_most {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(limit: usize, room: &Arc<Semaphore>, headers: &HeaderMap, body: Body) -> Result<Buffered, Refusal> {
        let mut options = Options::new(Vec::new());
        options.max_body_bytes = limit;
        read(headers, body, &options, room).await
    }

    #[tokio::test]
    async fn bodies_have_a_limit_each_and_all_together() {
        let room = Arc::new(Semaphore::new(10));
        let none = HeaderMap::new();
        let first = check(8, &room, &none, Body::from("12345678")).await.expect("as large as it may be");
        assert_eq!(first.bytes, "12345678");
        assert!(matches!(check(8, &room, &none, Body::from("123456789")).await, Err(Refusal::TooLarge { limit: 8 })));
        assert!(matches!(check(8, &room, &none, Body::from("123")).await, Err(Refusal::Full { .. })));
        let second = check(8, &room, &none, Body::from("12")).await.expect("there is room for two");
        drop((first, second));
        assert_eq!(room.available_permits(), 10);

        // What is announced as too large is not waited for.
        let announced = HeaderMap::from_iter([(CONTENT_LENGTH, http::HeaderValue::from_static("9"))]);
        let body = Body::new(http_body_util::Empty::<Bytes>::new());
        assert!(matches!(check(8, &room, &announced, body).await, Err(Refusal::TooLarge { .. })));
    }
}
