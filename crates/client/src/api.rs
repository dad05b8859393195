use std::time::{Duration, SystemTime};

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Response, Url};
use serde_json::Value;
use tokio::time::timeout;

use crate::error::{ApiError, Error, Wait, excerpt};
use crate::stream::Stream;
use crate::tls;

/// Where chats are answered.
pub const CHAT: &str = "/v1/chat/completions";
/// Where texts and token lists are continued.
pub const COMPLETIONS: &str = "/v1/completions";

/// The most bytes of an answer that comes whole.
const MAX_BODY_BYTES: usize = 256 << 20;

/// A server that speaks OpenAI's interface.
#[derive(Clone)]
pub struct Api {
    http: reqwest::Client,
    /// Without `/v1` and without a slash at its end.
    url: String,
    bearer: Option<HeaderValue>,
    timeouts: Timeouts,
}

/// For how long a server may say nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Until there is a connection.
    pub connect: Duration,
    /// Until an answer begins. One that comes whole begins when it is complete.
    pub first_byte: Duration,
    /// Between two pieces of it. A comment that keeps the stream alive is a piece.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(10), first_byte: Duration::from_mins(10), idle: Duration::from_mins(2) }
    }
}

/// An answer that came whole, of whatever status.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The answer, or what the server says about an error.
    pub body: Value,
    /// When the server wants to be asked again.
    pub retry_after: Option<Duration>,
    /// The server's name for the request.
    pub request_id: Option<String>,
}

impl Api {
    /// `url` is the server, such as `http://127.0.0.1:8000`, with or without the `/v1` of its paths.
    ///
    /// # Errors
    /// The URL or the key cannot be one, or https cannot be prepared.
    pub fn new(url: &str, key: Option<&str>, timeouts: Timeouts) -> Result<Self, Error> {
        let wrong = |reason: &str| Error::Url { url: url.to_owned(), reason: reason.to_owned() };
        let parsed = Url::parse(url).map_err(|error| wrong(&error.to_string()))?;
        if !matches!(parsed.scheme(), "http" | "https") || parsed.host_str().is_none() {
            return Err(wrong("it must begin with http:// or https://"));
        }
        if parsed.query().is_some() || parsed.fragment().is_some() || !parsed.username().is_empty() {
            return Err(wrong("it must have no user, no ? and no #"));
        }
        let bearer = key.map(bearer).transpose()?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::config(parsed.scheme() == "https")?)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            // A server may close a connection that waits just when the next request is sent on it, and then nobody knows
            // whether it was read. Requests of different users have connections of their own anyway.
            .pool_max_idle_per_host(0)
            .connect_timeout(timeouts.connect)
            .user_agent(concat!("hadal/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Error::Tls { reason: error.to_string() })?;
        let url = parsed.as_str().trim_end_matches('/');
        let url = url.strip_suffix("/v1").unwrap_or(url).to_owned();
        Ok(Self { http, url, bearer, timeouts })
    }

    /// The server's address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether a key goes to another machine where everyone on the way can read it.
    pub fn exposes_key(&self) -> bool {
        let Ok(url) = Url::parse(&self.url) else { return false };
        let host = url.host_str().unwrap_or("");
        let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        let is_here = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
        self.bearer.is_some() && url.scheme() == "http" && !is_here
    }

    /// The answer to `body` when it is complete, of whatever status.
    ///
    /// # Errors
    /// There is no answer, or it is no JSON though its status says that it is one.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Reply, Error> {
        let request = self.http.post(format!("{}{path}", self.url)).header(CONTENT_TYPE, "application/json");
        let response = self.send(request.body(body.to_string())).await?;
        self.whole(response).await
    }

    /// The same for a question without a body.
    ///
    /// # Errors
    /// As [`Self::post`].
    pub async fn get(&self, path: &str) -> Result<Reply, Error> {
        let response = self.send(self.http.get(format!("{}{path}", self.url))).await?;
        self.whole(response).await
    }

    /// The answer to `body`, which must ask for a stream, as it comes.
    ///
    /// # Errors
    /// There is no answer, its status is not that of success, or it is no stream of events.
    pub async fn stream(&self, path: &str, body: &Value) -> Result<Stream, Error> {
        let request = self.http.post(format!("{}{path}", self.url)).header(CONTENT_TYPE, "application/json");
        let response = self.send(request.body(body.to_string())).await?;
        if !response.status().is_success() {
            return Err(self.whole(response).await?.into_error(&self.url));
        }
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("no type");
        if !kind.starts_with("text/event-stream") {
            let found = format!("an answer of type {kind}");
            return Err(Error::Unexpected { url: self.url.clone(), expected: "stream of events", found });
        }
        Ok(Stream::new(response, &self.url, self.timeouts))
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Response, Error> {
        let request = match &self.bearer {
            Some(bearer) => request.header(AUTHORIZATION, bearer.clone()),
            None => request,
        };
        let url = || self.url.clone();
        match timeout(self.timeouts.first_byte, request.send()).await {
            Err(_) => Err(Error::Timeout { url: url(), wait: Wait::FirstByte, limit: self.timeouts.first_byte }),
            Ok(Err(cause)) if cause.is_connect() && cause.is_timeout() => {
                Err(Error::Timeout { url: url(), wait: Wait::Connect, limit: self.timeouts.connect })
            }
            Ok(Err(cause)) if cause.is_connect() => Err(Error::Connect { url: url(), cause }),
            Ok(Err(cause)) => Err(Error::Closed { url: url(), cause }),
            Ok(Ok(response)) => Ok(response),
        }
    }

    async fn whole(&self, mut response: Response) -> Result<Reply, Error> {
        let status = response.status();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| retry_after(value, SystemTime::now()));
        let request_id = request_id(response.headers());
        let url = || self.url.clone();
        let mut bytes = Vec::new();
        loop {
            let limit = self.timeouts.idle;
            let piece = timeout(limit, response.chunk())
                .await
                .map_err(|_| Error::Timeout { url: url(), wait: Wait::Idle, limit })?
                .map_err(|cause| Error::Broken { url: url(), chunks: 0, cause })?;
            let Some(piece) = piece else { break };
            if bytes.len() + piece.len() > MAX_BODY_BYTES {
                return Err(Error::TooLong { url: url(), what: "answer", limit_bytes: MAX_BODY_BYTES });
            }
            bytes.extend_from_slice(&piece);
        }
        let body = match serde_json::from_slice(&bytes) {
            Ok(body) => body,
            Err(_) if status.is_success() => {
                return Err(Error::Unexpected { url: url(), expected: "JSON", found: excerpt(&bytes) });
            }
            // A proxy in between says what it has to say in HTML.
            Err(_) => Value::String(excerpt(&bytes)),
        };
        Ok(Reply { status: status.as_u16(), body, retry_after, request_id })
    }
}

impl Reply {
    /// Whether it is an answer.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// What an answer without success means.
    pub(crate) fn into_error(self, url: &str) -> Error {
        let Self { status, body, retry_after, request_id } = self;
        let error = Box::new(ApiError::from_value(&body));
        Error::Status { url: url.to_owned(), status, error, retry_after, request_id }
    }
}

fn bearer(key: &str) -> Result<HeaderValue, Error> {
    // A blank within would be read as the end of the key by some servers and as a part of it by others.
    if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::Key);
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {key}")).map_err(|_| Error::Key)?;
    value.set_sensitive(true);
    Ok(value)
}

fn request_id(headers: &HeaderMap) -> Option<String> {
    headers.get("x-request-id").and_then(|id| id.to_str().ok()).map(str::to_owned)
}

/// `Retry-After` is seconds or a date (RFC 9110, section 10.2.3).
fn retry_after(value: &HeaderValue, now: SystemTime) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(url: &str) -> Result<Api, Error> {
        Api::new(url, Some("k"), Timeouts::default())
    }

    #[test]
    fn addresses_are_taken_with_and_without_v1() {
        for url in ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"] {
            assert_eq!(api(url).unwrap().url(), "http://h:1");
        }
        assert_eq!(api("http://h/prefix/v1").unwrap().url(), "http://h/prefix");
        for wrong in ["", "h:1", "localhost:8000", "ftp://h", "http://h/?a", "http://me@h/", "http://"] {
            let error = api(wrong).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains("write it like http://"), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_key_is_checked_and_not_shown() {
        for wrong in ["", "a b", "a\nb", "ä"] {
            assert!(matches!(Api::new("http://h", Some(wrong), Timeouts::default()), Err(Error::Key)), "{wrong:?}");
        }
        let value = bearer("secret").unwrap();
        assert!(!format!("{value:?}").contains("secret"));
    }

    #[test]
    fn a_key_in_the_open_is_noticed() {
        let exposes = |url: &str| api(url).unwrap().exposes_key();
        assert!(exposes("http://server:8000") && exposes("http://server/v1"));
        assert!(!exposes("http://127.0.0.1") && !exposes("http://[::1]:8000") && !exposes("http://localhost"));
        assert!(!Api::new("http://server", None, Timeouts::default()).unwrap().exposes_key());
    }

    #[test]
    fn https_is_prepared_where_there_are_certificates() {
        // Whether there are is the machine's affair; that no provider is missing is ours.
        match api("https://h") {
            Ok(api) => assert!(!api.exposes_key()),
            Err(error) => assert!(matches!(error, Error::Tls { .. }), "{error}"),
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Wed, 21 Oct 2015 07:28:00 GMT").unwrap();
        let read = |text: &str| retry_after(&HeaderValue::from_str(text).unwrap(), now).map(|wait| wait.as_secs());
        assert_eq!(read("7"), Some(7));
        assert_eq!(read("Wed, 21 Oct 2015 07:28:30 GMT"), Some(30));
        assert_eq!(read("Wed, 21 Oct 2015 07:27:00 GMT"), Some(0));
        for wrong in ["-1", "soon", "NaN", "inf", "1e300"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
