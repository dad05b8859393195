//! The body of an answer, passed on as it comes.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use crate::fleet::Place;
use crate::metrics::Metrics;

/// The body of a backend's answer. It holds the request's place until its last byte is passed on or the client leaves;
/// dropping it closes the connection to the backend if there would be more.
pub(crate) struct Passing<B: Body = Incoming> {
    inner: B,
    idle: Pin<Box<Sleep>>,
    /// Whether the backend is waited for, and `idle` counts. While the client takes its time, nobody asks for more.
    is_waiting: bool,
    idle_timeout: Duration,
    record: Option<Record>,
}

/// What is to be said of a request when it has ended.
pub(crate) struct Record {
    pub(crate) place: Place,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) id: String,
    pub(crate) method: http::Method,
    pub(crate) path: String,
    pub(crate) status: u16,
    /// When the request was whole.
    pub(crate) began: Instant,
    /// How long it took from then to the first byte of the answer.
    pub(crate) first_byte: Duration,
    /// How many backends were asked.
    pub(crate) tries: usize,
    pub(crate) bytes: u64,
}

/// Why an answer is cut. The client's connection is closed without the end that its protocol asks for, so that it
/// cannot take a part for the whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cut {
    #[error("the backend broke off its answer")]
    Broken(#[source] hyper::Error),
    #[error("the backend's answer stood still for {0:?}")]
    Idle(Duration),
}

impl Passing {
    pub(crate) fn new(inner: Incoming, idle_timeout: Duration, record: Record) -> Self {
        Self::over(inner, idle_timeout, Some(record))
    }
}

impl<B: Body> Passing<B> {
    fn over(inner: B, idle_timeout: Duration, record: Option<Record>) -> Self {
        Self { inner, idle: Box::pin(tokio::time::sleep(idle_timeout)), is_waiting: false, idle_timeout, record }
    }

    fn end(&mut self, reason: Option<&'static str>) {
        if let Some(record) = self.record.take() {
            record.end(reason);
        }
    }
}

impl<B: Body<Data = Bytes, Error = hyper::Error> + Unpin> Body for Passing<B> {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.inner).poll_frame(cx);
        let was_waiting = std::mem::replace(&mut this.is_waiting, polled.is_pending());
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(record), Some(data)) = (&mut this.record, frame.data_ref()) {
                    record.bytes += data.len() as u64;
                }
                if this.inner.is_end_stream() {
                    this.end(None);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                this.end(Some("backend"));
                Poll::Ready(Some(Err(Cut::Broken(error))))
            }
            Poll::Ready(None) => {
                this.end(None);
                Poll::Ready(None)
            }
            Poll::Pending => {
                if !was_waiting {
                    this.idle.as_mut().reset(Instant::now() + this.idle_timeout);
                }
                std::task::ready!(this.idle.as_mut().poll(cx));
                this.end(Some("idle"));
                Poll::Ready(Some(Err(Cut::Idle(this.idle_timeout))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B: Body> Drop for Passing<B> {
    fn drop(&mut self) {
        let reason = if self.inner.is_end_stream() { None } else { Some("client") };
        self.end(reason);
    }
}

impl Record {
    /// The request has ended, too early if there is a reason.
    fn end(self, reason: Option<&'static str>) {
        let backend = self.place.backend().name.as_str();
        if let Some(reason) = reason {
            self.metrics.cut.with_label_values(&[backend, reason]).inc();
        }
        tracing::info!(
            request_id = self.id,
            method = self.method.as_str(),
            path = self.path,
            status = self.status,
            backend,
            tries = self.tries,
            first_byte_ms = self.first_byte.as_millis() as u64,
            total_ms = self.began.elapsed().as_millis() as u64,
            bytes = self.bytes,
            cut_by = reason,
            "request"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use http_body_util::BodyExt;

    use super::*;

    /// Pieces in their order; `None` is a moment without one.
    struct Pieces(VecDeque<Option<&'static str>>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = hyper::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            match self.0.pop_front() {
                Some(Some(piece)) => Poll::Ready(Some(Ok(Frame::data(piece.into())))),
                Some(None) => Poll::Pending,
                None => Poll::Ready(None),
            }
        }
    }

    const IDLE: Duration = Duration::from_millis(200);

    #[tokio::test]
    async fn only_the_backend_can_be_idle() {
        let pieces = [None, Some("a"), None, None, Some("b"), None, None];
        let mut body = Passing::over(Pieces(pieces.into()), IDLE, None);
        // What one look at it sees, at once or after a pause that is too long for a backend.
        let mut look = async |is_late: bool| {
            if is_late {
                tokio::time::sleep(IDLE + Duration::from_millis(50)).await;
            }
            let mut frame = std::pin::pin!(body.frame());
            std::future::poll_fn(|cx| {
                Poll::Ready(match frame.as_mut().poll(cx) {
                    Poll::Pending => "waits".to_owned(),
                    Poll::Ready(Some(Ok(frame))) => {
                        String::from_utf8_lossy(frame.data_ref().expect("data")).into_owned()
                    }
                    Poll::Ready(Some(Err(error))) => error.to_string(),
                    Poll::Ready(None) => "ends".to_owned(),
                })
            })
            .await
        };
        // The client takes its time before the first piece and behind it.
        assert_eq!(look(true).await, "waits");
        assert_eq!(look(false).await, "a");
        assert_eq!(look(true).await, "waits");
        assert_eq!(look(false).await, "waits");
        assert_eq!(look(false).await, "b");
        // Asked for more, the backend has only so long.
        assert_eq!(look(true).await, "waits");
        assert_eq!(look(true).await, "the backend's answer stood still for 200ms");
    }
}
