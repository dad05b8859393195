//! Whether a request's body was read to its end. A connection with the rest of one in it is of no use for another request, and
//! a client that is not told so sends its next one into nothing.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use hyper::body::{Body, Frame, SizeHint};

/// Tells whether something is left of a body.
pub(crate) struct Unread(Arc<AtomicBool>);

impl Unread {
    /// Watches over `body`.
    pub(crate) fn of<B: Body>(body: B) -> (Self, Watched<B>) {
        let is_left = Arc::new(AtomicBool::new(!body.is_end_stream()));
        (Self(is_left.clone()), Watched { body, is_left })
    }

    pub(crate) fn is_left(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A body that is watched.
pub(crate) struct Watched<B> {
    body: B,
    is_left: Arc<AtomicBool>,
}

impl<B: Body + Unpin> Body for Watched<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
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
    use axum::body::{Body, to_bytes};

    use super::*;

    #[tokio::test]
    async fn a_body_is_left_until_its_end() {
        let (unread, body) = Unread::of(Body::from("text"));
        assert!(unread.is_left());
        assert_eq!(to_bytes(Body::new(body), 4).await.expect("it is there"), "text");
        assert!(!unread.is_left());
        assert!(!Unread::of(Body::empty()).0.is_left());
    }
}
