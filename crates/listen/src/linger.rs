//! A close that leaves the other side time to read the last response.
//!
//! Whoever is told that his body is too large is still sending it. If the connection were closed with something unread, his
//! system would drop the response, too, and show him a broken connection instead.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How long what comes after the last response is read, and thrown away.
const LINGER: Duration = Duration::from_secs(2);

/// A stream that is closed slowly if `is_wanted` says so by then.
pub(crate) struct Linger<S> {
    stream: S,
    is_wanted: Arc<AtomicBool>,
    /// Set once nothing is written any more.
    until: Option<Pin<Box<Sleep>>>,
}

impl<S> Linger<S> {
    pub(crate) fn new(stream: S, is_wanted: Arc<AtomicBool>) -> Self {
        Self { stream, is_wanted, until: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Linger<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Linger<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, is_wanted, until } = &mut *self;
        let until = if let Some(until) = until {
            until
        } else {
            ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
            if !is_wanted.load(Ordering::Acquire) {
                return Poll::Ready(Ok(()));
            }
            until.insert(Box::pin(sleep(LINGER)))
        };
        let mut bytes = [0; 16 << 10];
        while until.as_mut().poll(cx).is_pending() {
            let mut buf = ReadBuf::new(&mut bytes);
            match ready!(Pin::new(&mut *stream).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {}
                // The other side has closed it.
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}
