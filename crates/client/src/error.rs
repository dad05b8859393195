use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

/// What can go wrong between a client and a server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An address that cannot be one.
    #[error("{url:?} is no address of a server: {reason}; write it like http://127.0.0.1:8000")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A key that no header can hold. The key itself is not shown.
    #[error("the key has characters that a header cannot hold, such as a line break; keys are printable ASCII")]
    Key,
    /// Neither the system's certificates nor the cipher suites can be used.
    #[error("cannot prepare https: {reason}")]
    Tls {
        /// Why.
        reason: String,
    },
    /// The system gives no event loop.
    #[error("cannot start an event loop: {0}")]
    Runtime(std::io::Error),
    /// No connection.
    #[error("cannot reach {url}: {}; is a server running there?", root(.cause))]
    Connect {
        /// The server.
        url: String,
        /// What the transport says.
        cause: reqwest::Error,
    },
    /// A connection broke before its answer began.
    #[error("{url} closed the connection without an answer: {}", root(.cause))]
    Closed {
        /// The server.
        url: String,
        /// What the transport says.
        cause: reqwest::Error,
    },
    /// Nothing came for too long.
    #[error("{url}: {wait} took longer than {:.1} s", limit.as_secs_f64())]
    Timeout {
        /// The server.
        url: String,
        /// What was waited for.
        wait: Wait,
        /// For how long.
        limit: Duration,
    },
    /// The server refused the request or failed.
    #[error("{url} answered {status}: {error}{}", after(*.retry_after))]
    Status {
        /// The server.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What it says.
        error: Box<ApiError>,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
        /// The server's name for the request.
        request_id: Option<String>,
    },
    /// The server failed in the middle of an answer and said so.
    #[error("{url} failed in the middle of the answer, after {chunks} chunks: {error}")]
    Event {
        /// The server.
        url: String,
        /// Chunks that had come.
        chunks: u64,
        /// What it says.
        error: Box<ApiError>,
    },
    /// An answer ended before it said so.
    #[error("{url} ended the answer after {chunks} chunks without [DONE]; what came is incomplete")]
    CutOff {
        /// The server.
        url: String,
        /// Chunks that had come.
        chunks: u64,
    },
    /// The connection broke in the middle of an answer.
    #[error("the connection to {url} broke in the middle of the answer, after {chunks} chunks: {}", root(.cause))]
    Broken {
        /// The server.
        url: String,
        /// Chunks that had come.
        chunks: u64,
        /// What the transport says.
        cause: reqwest::Error,
    },
    /// An answer that is not what the interface says.
    #[error("{url} gave no {expected}: {found}; is it an OpenAI-compatible server?")]
    Unexpected {
        /// The server.
        url: String,
        /// What was asked for.
        expected: &'static str,
        /// What came.
        found: String,
    },
    /// An answer without a bound.
    #[error("{url} sent more than {limit_bytes} bytes in one {what}")]
    TooLong {
        /// The server.
        url: String,
        /// What was too long.
        what: &'static str,
        /// The limit.
        limit_bytes: usize,
    },
    /// A file that was asked for.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A line of a file of requests or prompts.
    #[error("{}:{line}: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: u64,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A file of answers that is none, or not of these requests.
    #[error("{}:{line}: {reason}", path.display())]
    Output {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: u64,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// Two runs would write to one file.
    #[error("another run is writing to {}; wait for it or choose another file", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// A plan that cannot be carried out.
    #[error("{0}")]
    Plan(String),
}

/// What a server says about an error.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ApiError {
    /// For people.
    pub message: String,
    /// The kind of error, such as `invalid_request_error`.
    pub kind: Option<String>,
    /// The field that it is about.
    pub param: Option<String>,
    /// For programs, such as `context_length_exceeded`.
    pub code: Option<String>,
}

/// What a client waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// A connection.
    Connect,
    /// The beginning of an answer.
    FirstByte,
    /// The next piece of it.
    Idle,
}

impl Error {
    /// Whether asking again may help, since nothing is wrong with the request.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Status { status, .. } => is_passing(*status),
            Self::Closed { .. } | Self::Broken { .. } | Self::CutOff { .. } => true,
            _ => self.is_unreachable(),
        }
    }

    /// Whether it says something about one request and its answer, and not about all.
    pub(crate) fn is_about_request(&self) -> bool {
        match self {
            Self::Timeout { wait, .. } => *wait != Wait::Connect,
            Self::Status { .. }
            | Self::Event { .. }
            | Self::Unexpected { .. }
            | Self::TooLong { .. }
            | Self::Closed { .. }
            | Self::Broken { .. }
            | Self::CutOff { .. } => true,
            _ => false,
        }
    }

    /// Whether there is no server to talk to.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Connect { .. } | Self::Timeout { wait: Wait::Connect, .. })
    }

    /// Whether what the user gave is wrong, and not what a server did.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Url { .. }
                | Self::Key
                | Self::Line { .. }
                | Self::Output { .. }
                | Self::Plan(_)
                | Self::Locked { .. }
        )
    }

    /// One word for counting.
    pub fn kind(&self) -> String {
        let kind = match self {
            Self::Status { status, .. } => return format!("status_{status}"),
            Self::Connect { .. } => "connect",
            Self::Closed { .. } => "closed",
            Self::Timeout { wait: Wait::Connect, .. } => "timeout_connect",
            Self::Timeout { wait: Wait::FirstByte, .. } => "timeout_first_byte",
            Self::Timeout { wait: Wait::Idle, .. } => "timeout_idle",
            Self::Event { .. } => "error_event",
            Self::CutOff { .. } => "cut_off",
            Self::Broken { .. } => "broken",
            Self::Unexpected { .. } | Self::TooLong { .. } => "unexpected",
            _ => "client",
        };
        kind.to_owned()
    }
}

/// Whether a status speaks of a moment and not of the request: what was sent came too slowly (408), the server is busy (429, 503),
/// or one on the way to it found it gone or too slow (502, 504).
pub(crate) fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 429 | 502 | 503 | 504)
}

impl ApiError {
    /// Reads the body of an error: OpenAI's form, and what other servers send instead of it.
    pub(crate) fn from_value(value: &Value) -> Self {
        let inner = value.get("error").or_else(|| value.get("detail")).unwrap_or(value);
        // Codes are text for some and numbers for others.
        let field = |name: &str| match inner.get(name) {
            Some(Value::String(text)) => Some(text.clone()),
            Some(Value::Number(number)) => Some(number.to_string()),
            _ => None,
        };
        let whole = || match inner {
            Value::String(text) if text.trim().is_empty() => "(no message)".to_owned(),
            Value::String(text) => text.clone(),
            other => excerpt(other.to_string().as_bytes()),
        };
        let message = field("message").unwrap_or_else(whole);
        Self { message, kind: field("type"), param: field("param"), code: field("code") }
    }

    /// Whether it is about the request's field `name`.
    pub fn is_about(&self, name: &str) -> bool {
        self.param.as_deref() == Some(name) || self.message.contains(name)
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        self.code.as_ref().map_or(Ok(()), |code| write!(f, " ({code})"))
    }
}

impl std::fmt::Display for Wait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Connect => "connecting",
            Self::FirstByte => "the beginning of the answer",
            Self::Idle => "the next piece of the answer",
        })
    }
}

/// The beginning of what came, for a message.
pub(crate) fn excerpt(bytes: &[u8]) -> String {
    const SHOWN: usize = 200;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(4 * SHOWN)]);
    let shown: String = text.trim().chars().take(SHOWN).collect();
    if shown.len() < text.trim().len() { shown + ".." } else { shown }
}

/// The innermost cause: what the operating system or the peer said, without the layers around it.
fn root(error: &reqwest::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string()
}

fn after(wait: Option<Duration>) -> String {
    wait.map_or_else(String::new, |wait| format!("; it asks to come back in {:.0} s", wait.as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_different_servers_are_read() {
        let read = |text: &str| ApiError::from_value(&serde_json::from_str(text).expect("JSON"));
        let openai = read(
            r#"{"error":{"message":"too long","type":"invalid_request_error","param":"prompt","code":"context_length_exceeded"}}"#,
        );
        assert_eq!(openai.to_string(), "too long (context_length_exceeded)");
        assert!(openai.is_about("prompt") && !openai.is_about("stop"));
        let llama = read(r#"{"error":{"code":400,"message":"no","type":"invalid_request_error"}}"#);
        assert_eq!((llama.message.as_str(), llama.code.as_deref()), ("no", Some("400")));
        assert_eq!(read(r#"{"object":"error","message":"old"}"#).message, "old");
        assert_eq!(read(r#"{"detail":"Not Found"}"#).message, "Not Found");
        assert_eq!(read(r#"{"error":"plain"}"#).message, "plain");
        assert_eq!(read("\"<html>bad gateway</html>\"").message, "<html>bad gateway</html>");
        assert_eq!(read("\"\"").message, "(no message)");
        assert_eq!(excerpt("ü".repeat(300).as_bytes()), "ü".repeat(200) + "..");
    }
}
