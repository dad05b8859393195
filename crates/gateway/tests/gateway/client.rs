//! A client that sends bytes and reads bytes.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::running::soon;

pub(crate) struct Client {
    socket: TcpStream,
    received: Vec<u8>,
}

/// What came of a request.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    /// Without the lengths of chunks.
    pub(crate) body: String,
    /// Whether the body came to the end that its head promises.
    pub(crate) is_whole: bool,
}

/// A request for a path with a body; the connection is for it alone.
pub(crate) fn post(path: &str, headers: &str, body: &str) -> String {
    let headers = if headers.is_empty() { String::new() } else { format!("{headers}\r\n") };
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    )
}

pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n")
}

impl Client {
    /// Connects and sends something.
    pub(crate) async fn send(to: SocketAddr, bytes: &str) -> Self {
        let mut client =
            Self { socket: TcpStream::connect(to).await.expect("a gateway listens"), received: Vec::new() };
        client.write(bytes).await;
        client
    }

    /// Sends more; false if the other side has closed.
    pub(crate) async fn write(&mut self, bytes: &str) -> bool {
        self.socket.write_all(bytes.as_bytes()).await.is_ok()
    }

    /// Waits until `text` has come.
    pub(crate) async fn until(&mut self, text: &str) {
        while !String::from_utf8_lossy(&self.received).contains(text) {
            assert!(self.read().await, "closed before '{text}': {}", String::from_utf8_lossy(&self.received));
        }
    }

    /// Everything until the other side closes.
    pub(crate) async fn all(mut self) -> String {
        while self.read().await {}
        String::from_utf8_lossy(&self.received).into_owned()
    }

    /// The same, taken apart.
    pub(crate) async fn reply(self) -> Reply {
        let text = self.all().await;
        let (head, raw) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in '{text}'"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let head = format!("{}\r\n", head.to_ascii_lowercase());
        let is_chunked = head.contains("transfer-encoding: chunked\r\n");
        let (body, is_whole) = if is_chunked { dechunk(raw) } else { (raw.to_owned(), has_length(&head, raw.len())) };
        Reply { status, head, body, is_whole }
    }

    /// Reads what comes next; false if the other side closes.
    pub(crate) async fn read(&mut self) -> bool {
        let mut buffer = [0; 4096];
        let read = soon("an answer comes", self.socket.read(&mut buffer)).await.unwrap_or(0);
        self.received.extend_from_slice(&buffer[..read]);
        read > 0
    }
}

/// Sends a request and waits for all of its answer.
pub(crate) async fn ask(to: SocketAddr, request: &str) -> Reply {
    Client::send(to, request).await.reply().await
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

fn has_length(head: &str, length: usize) -> bool {
    head.contains(&format!("content-length: {length}\r\n"))
}

fn dechunk(mut raw: &str) -> (String, bool) {
    let mut body = String::new();
    while let Some((length, rest)) = raw.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).expect("the length of a chunk");
        if length == 0 {
            return (body, rest == "\r\n");
        }
        let Some(data) = rest.get(..length) else { break };
        body.push_str(data);
        raw = rest[length..].strip_prefix("\r\n").unwrap_or("");
    }
    (body, false)
}
