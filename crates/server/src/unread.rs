//! Whether a request's body was read to its end. A connection with the rest of one in it is of no use for another request, and
//! a client that is not told so sends its next one into nothing.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;

/// Tells whether something is left of a body.
pub(crate) struct Unread(Arc<AtomicBool>);

impl Unread {
    /// Watches over the body of `request`.
    pub(crate) fn of(request: Request) -> (Self, Request) {
        let is_left = Arc::new(AtomicBool::new(!request.body().is_end_stream()));
        let watched = request.map(|body| Body::new(Watched { body, is_left: is_left.clone() }.boxed_unsync()));
        (Self(is_left), watched)
    }

    pub(crate) fn is_left(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

struct Watched {
    body: Body,
    is_left: Arc<AtomicBool>,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        let is_left = match &frame {
            Poll::Ready(None) => false,
            Poll::Ready(Some(Ok(_))) => !self.body.is_end_stream(),
            _ => return frame,
        };
        self.is_left.store(is_left, Ordering::Release);
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_is_left_until_its_end() {
        let (unread, request) = Unread::of(Request::new(Body::from("text")));
        assert!(unread.is_left());
        assert_eq!(request.into_body().collect().await.unwrap().to_bytes(), "text");
        assert!(!unread.is_left());
        assert!(!Unread::of(Request::new(Body::empty())).0.is_left());
    }
}
