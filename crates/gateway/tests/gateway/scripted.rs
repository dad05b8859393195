//! Backends that do what a script says, byte by byte.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use crate::running::soon;

/// What a backend does with a request.
pub(crate) enum Step {
    /// Writes these bytes.
    Send(String),
    /// Waits for a permit, or until the other side leaves.
    Wait(Arc<Semaphore>),
    /// Waits until the other side leaves.
    Hang,
    /// Closes the connection in order.
    Close,
    /// Closes it with a reset.
    Reset,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Request line and headers.
    pub(crate) head: String,
    pub(crate) body: String,
}

type Script = dyn Fn(&Seen) -> Vec<Step> + Send + Sync;

pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

struct State {
    script: Box<Script>,
    /// Status of `/readyz`.
    ready: AtomicU16,
    polls: AtomicUsize,
    /// Connections that brought a request which was not for `/readyz`.
    connections: AtomicUsize,
    seen: Mutex<Vec<Seen>>,
    /// A permit for each time that the other side left before the end of a script.
    gone: Semaphore,
}

/// An answer with a length.
pub(crate) fn answer(status: &str, headers: &str, body: &str) -> Step {
    let headers = if headers.is_empty() { String::new() } else { format!("{headers}\r\n") };
    Step::Send(format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len()))
}

/// The beginning of a stream of events.
pub(crate) fn stream_head() -> Step {
    Step::Send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".to_owned())
}

/// A piece of a stream.
pub(crate) fn chunk(text: &str) -> Step {
    Step::Send(format!("{:x}\r\n{text}\r\n", text.len()))
}

/// The end of a stream.
pub(crate) fn stream_end() -> Step {
    Step::Send("0\r\n\r\n".to_owned())
}

impl Backend {
    pub(crate) async fn start(script: impl Fn(&Seen) -> Vec<Step> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let state = Arc::new(State {
            script: Box::new(script),
            ready: AtomicU16::new(200),
            polls: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            seen: Mutex::default(),
            gone: Semaphore::new(0),
        });
        let task = tokio::spawn(accept(listener, state.clone()));
        Self { address, state, task }
    }

    /// Answers everything at once with `name`.
    pub(crate) async fn named(name: &'static str) -> Self {
        Self::start(move |_| vec![answer("200 OK", "", name)]).await
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on `/readyz` answers so.
    pub(crate) fn set_ready(&self, status: u16) {
        self.state.ready.store(status, Ordering::SeqCst);
    }

    /// How often it has been asked for `/readyz`.
    pub(crate) fn polls(&self) -> usize {
        self.state.polls.load(Ordering::SeqCst)
    }

    /// How many connections brought requests.
    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// The requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().expect("nobody panics with it").clone()
    }

    /// Waits until there were so many requests.
    pub(crate) async fn until_seen(&self, number: usize) {
        soon("requests arrive", async {
            while self.seen().len() < number {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// Waits until somebody left before the end of his answer.
    pub(crate) async fn until_gone(&self) {
        soon("the backend sees that nobody reads", self.state.gone.acquire()).await.expect("never closed").forget();
    }

    /// Ends it with all its connections, as if its process were killed.
    pub(crate) async fn kill(&mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    // Dropped with this task, and the connections with it.
    let mut connections = JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await.expect("a listener accepts");
        connections.spawn(serve(socket, state.clone()));
    }
}

async fn serve(mut socket: TcpStream, state: Arc<State>) {
    let mut bytes = Vec::new();
    let mut is_new = true;
    while let Some(seen) = read_request(&mut socket, &mut bytes).await {
        if seen.head.starts_with("GET /readyz ") {
            state.polls.fetch_add(1, Ordering::SeqCst);
            let status = state.ready.load(Ordering::SeqCst);
            let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
            let _ = socket.write_all(answer.as_bytes()).await;
            continue;
        }
        if std::mem::take(&mut is_new) {
            state.connections.fetch_add(1, Ordering::SeqCst);
        }
        let steps = (state.script)(&seen);
        state.seen.lock().expect("nobody panics with it").push(seen);
        for step in steps {
            match step {
                Step::Send(text) => {
                    let _ = socket.write_all(text.as_bytes()).await;
                }
                Step::Wait(permits) => tokio::select! {
                    permit = permits.acquire() => permit.expect("never closed").forget(),
                    () = left(&mut socket) => return state.gone.add_permits(1),
                },
                Step::Hang => {
                    left(&mut socket).await;
                    return state.gone.add_permits(1);
                }
                Step::Close => return,
                Step::Reset => return socket.set_zero_linger().expect("a socket has a linger time"),
            }
        }
    }
}

/// Waits until the other side closes.
async fn left(socket: &mut TcpStream) {
    let mut byte = [0];
    // More than what was asked for would be a fault of the gateway.
    assert!(!matches!(socket.read(&mut byte).await, Ok(1..)), "bytes behind a request");
}

async fn read_request(socket: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<Seen> {
    let mut buffer = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end + 2]).into_owned();
            let length =
                head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            let end = end + 4;
            let all = end + length.unwrap_or(0);
            if bytes.len() >= all {
                let body = String::from_utf8_lossy(&bytes[end..all]).into_owned();
                bytes.drain(..all);
                return Some(Seen { head, body });
            }
        }
        match socket.read(&mut buffer).await {
            Ok(0) | Err(_) => return None,
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
        }
    }
}
