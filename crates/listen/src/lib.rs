//! HTTP/1.1 connections, held to limits.
//!
//! [`serve`] accepts connections and hands their requests to a router. Whoever sends headers slowly, sends too many of
//! them, stops reading, or comes when the house is full loses his connection and nobody else's.
//!
//! Absent on purpose: what is served, and limits of single requests (their bodies, their time), which only the router can
//! judge.

mod linger;
mod refuse;
mod unread;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_io_timeout::TimeoutStream;

use linger::Linger;
use unread::Unread;

/// What a connection may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at the same time. Further ones are told 503.
    pub max_connections: usize,
    /// How long the headers of a request may take, and how long a connection may wait for its next request.
    pub header_timeout: Duration,
    /// Bytes of the headers of a request.
    pub max_header_bytes: usize,
    /// How long a client may leave a piece of a response unread.
    pub write_timeout: Duration,
    /// How long requests may still take once the server is asked to end.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 2048,
            header_timeout: Duration::from_secs(30),
            max_header_bytes: 64 << 10,
            write_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_mins(2),
        }
    }
}

/// Serves `router` to whoever connects to `listener`, whose address requests carry as `ConnectInfo<SocketAddr>`, until `shutdown` is ready. Then no connection is accepted any more,
/// and those that have a request under way get `drain_timeout` to end it.
///
/// `turned_away` is called for each connection that there is no room for. Says whether all requests under way ended.
///
/// # Errors
/// When connections cannot be accepted for a reason that will not go away.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    turned_away: impl Fn(),
    shutdown: impl Future<Output = ()>,
) -> io::Result<bool> {
    let graceful = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(limits.max_connections));
    // Telling somebody that there is no room takes some, too; who comes beyond that is not even told.
    let lobby = Arc::new(Semaphore::new(limits.max_connections.clamp(64, 1024)));
    let full = refuse::router();
    let mut shutdown = pin!(shutdown);
    loop {
        let (stream, peer) = tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) if concerns_one(&error) => continue,
                Err(error) if is_exhaustion(&error) => {
                    tracing::warn!("a connection cannot be accepted: {error}; raise the limit of open files");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
                Err(error) => return Err(error),
            },
        };
        if let Ok(permit) = room.clone().try_acquire_owned() {
            connection(stream, peer, router.clone(), limits, permit, &graceful);
            continue;
        }
        turned_away();
        if let Ok(permit) = lobby.clone().try_acquire_owned() {
            let limits = Limits { header_timeout: limits.header_timeout.min(Duration::from_secs(5)), ..limits };
            connection(stream, peer, full.clone(), limits, permit, &graceful);
        }
    }
    drop(listener);
    Ok(tokio::time::timeout(limits.drain_timeout, graceful.shutdown()).await.is_ok())
}

/// Serves one connection on a task of its own.
fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    limits: Limits,
    permit: OwnedSemaphorePermit,
    graceful: &GracefulShutdown,
) {
    // Tokens are small and should not wait for company. Where that cannot be said, they do.
    stream.set_nodelay(true).ok();
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(limits.write_timeout));
    let lingers = Arc::new(AtomicBool::new(false));
    let stream = Linger::new(Box::pin(stream), lingers.clone());
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (head, body) = request.into_parts();
        let (unread, body) = Unread::of(body);
        let mut request = Request::from_parts(head, Body::new(body));
        request.extensions_mut().insert(ConnectInfo(peer));
        let router = router.clone();
        let is_chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
        let lingers = lingers.clone();
        async move {
            let mut response = tower::ServiceExt::oneshot(router, request).await?;
            if is_chunked || unread.is_left() {
                end_with(&mut response);
            }
            // Whoever says so may not have read everything.
            lingers.store(response.headers().contains_key(header::CONNECTION), Ordering::Release);
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_header_size(limits.max_header_bytes)
        // What is read ahead may end with headers that are not whole yet.
        .max_buf_size(limits.max_header_bytes.max(8 << 10))
        .serve_connection(TokioIo::new(stream), service);
    let connection = graceful.watch(connection);
    tokio::spawn(async move {
        // What goes wrong with one connection is the other side's affair, and it knows.
        if let Err(error) = connection.await {
            tracing::debug!(%peer, "connection: {error}");
        }
        drop(permit);
    });
}

/// Makes it the last response of its connection: what is left of a body stands where the next request would, and whoever is told
/// sends that elsewhere. A request in chunks may have had a length, too (hyper drops it), and whoever believed that one, a proxy on
/// the way, saw another request end here: RFC 9112, section 6.3.
fn end_with(response: &mut Response) {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
}

/// Whether the next connection may well be accepted.
fn concerns_one(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Whether files, buffers or memory are used up for the moment: EMFILE, ENFILE, ENOBUFS, ENOMEM.
fn is_exhaustion(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(24 | 23 | 105 | 12))
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Serves somebody who reads bodies under `/read`, and refuses them unread everywhere else.
    async fn start() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let router = Router::new()
            .route("/read", axum::routing::any(|body: axum::body::Bytes| async move { body.len().to_string() }))
            .fallback(|| async { (StatusCode::UNAUTHORIZED, "who are you?") })
            .layer(axum::extract::DefaultBodyLimit::disable());
        tokio::spawn(serve(listener, router, Limits::default(), || {}, std::future::pending()));
        address
    }

    fn post(path: &str, body: &str) -> String {
        format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn whoever_is_refused_while_he_sends_hears_why_and_sends_nothing_more() {
        let address = start().await;
        // One that lies there whole, and one that is larger than what a connection holds on its way.
        for bytes in [10, 16 << 20] {
            let mut client = TcpStream::connect(address).await.expect("it listens");
            let request = post("/", &"x".repeat(bytes));
            let (mut from, mut to) = client.split();
            let send = async {
                // The other side need not take all of it.
                to.write_all(request.as_bytes()).await.ok();
            };
            let mut answer = String::new();
            let read = from.read_to_string(&mut answer);
            let ((), read) = tokio::join!(send, read);
            read.unwrap_or_else(|error| panic!("{bytes} bytes: {error} after {answer:?}"));
            assert!(answer.starts_with("HTTP/1.1 401 ") && answer.ends_with("who are you?"), "{answer}");
            assert!(answer.contains("connection: close\r\n"), "{answer}");
        }
    }

    #[tokio::test]
    async fn a_connection_whose_bodies_were_read_goes_on() {
        let mut client = TcpStream::connect(start().await).await.expect("it listens");
        for (request, end) in [
            (post("/read", "text"), "\r\n\r\n4"),
            (post("/read", ""), "\r\n\r\n0"),
            // Without a body there is nothing to read.
            ("GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), "who are you?"),
            (post("/read", &"x".repeat(1 << 20)), "\r\n\r\n1048576"),
        ] {
            client.write_all(request.as_bytes()).await.expect("it takes it");
            let mut answer = Vec::new();
            while !answer.ends_with(end.as_bytes()) {
                let read = client.read_buf(&mut answer).await.expect("an answer comes");
                assert!(read > 0, "closed after {}", String::from_utf8_lossy(&answer));
            }
            assert!(!String::from_utf8_lossy(&answer).contains("connection"), "{}", String::from_utf8_lossy(&answer));
        }
    }
}
