//! Bodies of requests, read within limits of size, time and memory.

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use tokio::sync::OwnedSemaphorePermit;

use crate::app::App;
use crate::error::ApiError;

/// A body, and the room that it takes.
pub(crate) struct Read {
    pub(crate) bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

/// The first so many bytes of a body need no room of the common one, so that large bodies keep no small ones out. There are
/// at most as many bodies as requests.
const FREE: usize = 128 << 10;

/// Reads a JSON body.
///
/// # Errors
/// When it is no JSON by its headers, too large, too slow, or cut short, or when bodies of others fill the room for all.
pub(crate) async fn read(app: &App, headers: &HeaderMap, body: Body) -> Result<Read, ApiError> {
    check_type(headers)?;
    let limit = app.options.max_body_bytes;
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > limit as u64) {
        return Err(too_large(limit));
    }
    tokio::time::timeout(app.options.body_timeout, collect(app, body)).await.unwrap_or_else(|_| {
        let message = format!("the body did not arrive within {:?} (--body-timeout)", app.options.body_timeout);
        Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message))
    })
}

async fn collect(app: &App, mut body: Body) -> Result<Read, ApiError> {
    let limit = app.options.max_body_bytes;
    let mut bytes = Vec::new();
    let mut room = app.bodies.clone().try_acquire_many_owned(0).map_err(|_| full(app))?;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            ApiError::bad_request("incomplete_body", format!("the body ended before it was whole: {error}"))
        })?;
        // Trailers say nothing that anybody reads.
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > limit - bytes.len() {
            return Err(too_large(limit));
        }
        // Room is taken for what has come, and not for what is announced: whoever announces much and sends nothing would
        // keep it from all others. And nobody waits for it, as whoever waits holds some.
        bytes.extend_from_slice(&data);
        let beyond = u32::try_from(bytes.len().saturating_sub(FREE) - room.num_permits()).map_err(|_| full(app))?;
        room.merge(app.bodies.clone().try_acquire_many_owned(beyond).map_err(|_| full(app))?);
    }
    Ok(Read { bytes: bytes.into(), _room: room })
}

fn full(app: &App) -> ApiError {
    app.metrics.rejected("bodies");
    let message = "the server has no room for this body beside those of other requests; try again later";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message).with_retry_after(1)
}

/// Pages of other origins can send anything but JSON without being asked by the browser first.
fn check_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let unsupported =
        |message: String| Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message));
    let kind = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?"));
    let media = kind.map(|kind| kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    if media.as_deref() != Some("application/json") {
        let found: String = kind.unwrap_or("nothing").chars().take(100).collect();
        return unsupported(format!("content-type must be application/json, not {found}"));
    }
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING)
        && encoding != "identity"
    {
        return unsupported("compressed bodies are not read; send it without content-encoding".to_owned());
    }
    Ok(())
}

fn too_large(limit: usize) -> ApiError {
    let message = format!("the body is larger than {limit} bytes, the most that is read (--max-body)");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
}
