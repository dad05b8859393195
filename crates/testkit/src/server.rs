//! A server whose every byte a test decides: what it answers, in which pieces, when, and where the connection breaks.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;

/// Listens on a free port of this machine until the test ends. Every connection answers on a thread of its own.
pub struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
}

/// What somebody asked.
#[derive(Debug, Clone)]
pub struct Request {
    /// Such as `POST`.
    pub method: String,
    /// Such as `/v1/models`.
    pub path: String,
    /// Lines of the head after the first one.
    pub headers: Vec<String>,
    /// The body; null without one.
    pub body: Value,
}

/// A part of an answer. Without [`Step::Cut`] the connection stays open for the next request.
#[derive(Debug, Clone)]
pub enum Step {
    /// Status and headers of an answer that comes in pieces.
    Head(u16, Vec<(&'static str, String)>),
    /// A piece.
    Piece(Vec<u8>),
    /// Nothing for a while.
    Pause(Duration),
    /// The end of the answer, where something is to come after it; without this step it comes after the last one.
    End,
    /// The connection ends here.
    Cut,
}

impl Server {
    /// `answer` gets each request and its number, from 0.
    pub fn start(answer: impl Fn(usize, &Request) -> Vec<Step> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (Arc::clone(&requests), Arc::new(answer));
        std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                std::thread::spawn(move || {
                    // A client that has left is no fault of the test's.
                    drop(serve(connection, &log, &*answer));
                });
            }
        });
        Self { address, requests }
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What was asked so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Step {
    /// An answer of JSON, whole.
    pub fn json(status: u16, body: &Value) -> Vec<Self> {
        Self::json_with(status, Vec::new(), body)
    }

    /// The same with headers.
    pub fn json_with(status: u16, mut headers: Vec<(&'static str, String)>, body: &Value) -> Vec<Self> {
        headers.push(("content-type", "application/json".to_owned()));
        vec![Self::Head(status, headers), Self::Piece(body.to_string().into_bytes())]
    }

    /// The beginning of a stream of events.
    pub fn events() -> Self {
        Self::Head(200, vec![("content-type", "text/event-stream".to_owned())])
    }

    /// One event of a stream.
    pub fn event(data: &Value) -> Self {
        Self::Piece(format!("data: {data}\n\n").into_bytes())
    }

    /// The end of a stream.
    pub fn done() -> Self {
        Self::Piece(b"data: [DONE]\n\n".to_vec())
    }
}

/// The last chunk of an answer that comes in chunks.
const END: &[u8] = b"0\r\n\r\n";

fn serve(
    connection: TcpStream,
    log: &Mutex<Vec<Request>>,
    answer: &dyn Fn(usize, &Request) -> Vec<Step>,
) -> std::io::Result<()> {
    connection.set_nodelay(true)?;
    let mut reader = BufReader::new(connection.try_clone()?);
    let mut writer = connection;
    while let Some(request) = read(&mut reader)? {
        let number = {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            log.push(request.clone());
            log.len() - 1
        };
        for step in answer(number, &request) {
            match step {
                Step::Head(status, headers) => {
                    let headers: String =
                        headers.iter().flat_map(|(name, value)| [name, ": ", value, "\r\n"]).collect();
                    write!(writer, "HTTP/1.1 {status} Scripted\r\ntransfer-encoding: chunked\r\n{headers}\r\n")?;
                }
                // An empty chunk would end the answer.
                Step::Piece(bytes) if bytes.is_empty() => {}
                Step::Piece(bytes) => {
                    let chunk = [format!("{:x}\r\n", bytes.len()).as_bytes(), &bytes, b"\r\n"].concat();
                    writer.write_all(&chunk)?;
                }
                Step::Pause(time) => std::thread::sleep(time),
                Step::End => writer.write_all(END)?,
                Step::Cut => return writer.shutdown(std::net::Shutdown::Both),
            }
        }
        writer.write_all(END)?;
    }
    Ok(())
}

/// The next request; `None` when the client has left.
fn read(reader: &mut BufReader<TcpStream>) -> std::io::Result<Option<Request>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        if line.trim_end().is_empty() {
            break;
        }
        lines.push(line.trim_end().to_owned());
    }
    let first = lines.remove(0);
    let length = lines.iter().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().expect("a length"))
    });
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().expect("a method"), words.next().expect("a path"));
    let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).expect("a body of JSON") };
    Ok(Some(Request { method, path, headers: lines, body }))
}
