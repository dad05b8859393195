//! What every request passes on its way in and out: a name for it, the keys, a count, and a line in the log.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http_body::{Frame, SizeHint};
use prometheus::IntGauge;

use crate::app::App;
use crate::error::ApiError;
use crate::keys::{Caller, Scope};
use crate::line::{Line, Refusal};

/// The name of a request, as an extension of it.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(pub(crate) String);

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// How errors are written, and what the two interfaces have under the same path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    OpenAi,
    Anthropic,
}

impl Dialect {
    /// The one that somebody speaks who asks for `path`.
    pub(crate) fn of(path: &str, headers: &HeaderMap) -> Self {
        let is_theirs = path == "/v1/messages" || path.starts_with("/v1/messages/");
        // Both have models, and only one has a header for its version.
        let is_shared = path == "/v1/models" || path.starts_with("/v1/models/");
        if is_theirs || (is_shared && headers.contains_key("anthropic-version")) {
            Self::Anthropic
        } else {
            Self::OpenAi
        }
    }
}

/// The way in and out.
pub(crate) async fn pass(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    let path =
        request.extensions().get::<MatchedPath>().map_or_else(|| "other".to_owned(), |path| path.as_str().to_owned());
    let dialect = Dialect::of(request.uri().path(), request.headers());
    let origin = allowed_origin(&app, request.headers());
    let in_flight = InFlight::new(app.metrics.in_flight.clone());
    let mut line = Line::new(&id, &path, &request);
    let response = match check(&app, &request) {
        _ if origin.is_some() && request.method() == Method::OPTIONS => preflight(request.headers()),
        Err(error) => respond(&error, dialect, &id),
        Ok(caller) => {
            line.of(&caller.name);
            request.extensions_mut().insert(line.recorded());
            request.extensions_mut().insert(RequestId(id.clone()));
            request.extensions_mut().insert(dialect);
            request.extensions_mut().insert(caller);
            // What a request asks for cannot make a handler panic; if one does, the others do not notice.
            AssertUnwindSafe(next.run(request)).catch_unwind().await.unwrap_or_else(|_| {
                app.metrics.panics.inc();
                let error = ApiError::internal("the program failed over this request; this is a fault of the program");
                respond(&error, dialect, &id)
            })
        }
    };
    line.answered(&response);
    app.metrics.http(&path, response.status().as_u16());
    finish(response.map(|body| Body::new(Counted { body, _in_flight: in_flight })), dialect, &id, origin)
}

/// Counts a request until it is dropped.
struct InFlight(IntGauge);

impl InFlight {
    fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A body that belongs to a request until its last byte is handed on, or the client has left.
struct Counted {
    body: Body,
    _in_flight: InFlight,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An error as a response.
pub(crate) fn respond(error: &ApiError, dialect: Dialect, id: &str) -> Response {
    let body = match dialect {
        Dialect::OpenAi => error.openai(),
        Dialect::Anthropic => error.anthropic(Some(id)),
    };
    let mut response = (error.status, axum::Json(body)).into_response();
    response.extensions_mut().insert(Refusal(error.code));
    if let Some(seconds) = error.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    if error.status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

pub(crate) fn finish(mut response: Response, dialect: Dialect, id: &str, origin: Option<HeaderValue>) -> Response {
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(id) {
        if dialect == Dialect::Anthropic {
            // Where clients of this interface look for it.
            headers.insert(HeaderName::from_static("request-id"), id.clone());
        }
        headers.insert(X_REQUEST_ID, id);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::VARY, HeaderValue::from_static("origin"));
        let exposed = HeaderValue::from_static("x-request-id, request-id, retry-after");
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
    response
}

/// The client's name for a request, if it is one; a new one otherwise.
pub(crate) fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(X_REQUEST_ID).and_then(|value| value.to_str().ok());
    let is_name = |id: &&str| {
        (1..=128).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
    };
    given.filter(is_name).map_or_else(|| uuid::Uuid::new_v4().simple().to_string(), str::to_owned)
}

/// Whether the request may come in, and as whom.
fn check(app: &App, request: &Request) -> Result<Caller, ApiError> {
    let headers = request.headers();
    let Some(keys) = &app.keys else {
        check_host(&app.options.hosts, request)?;
        return Ok(Caller { name: String::new(), scope: Scope::User });
    };
    keys.check(request.uri().path(), headers).inspect_err(|error| {
        if error.status == StatusCode::TOO_MANY_REQUESTS {
            app.metrics.rejected("rate");
        }
    })
}

/// Without keys, whoever reaches the port may ask. A page of another site in the user's own browser reaches it too, if it
/// lets its name point here; but then the browser says that name.
pub(crate) fn check_host(hosts: &[String], request: &Request) -> Result<(), ApiError> {
    // A target that is a whole address names the host too.
    let target = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    let header = request.headers().get(header::HOST).map(HeaderValue::as_bytes);
    target.into_iter().chain(header).try_for_each(|host| check_name(hosts, host))
}

fn check_name(hosts: &[String], host: &[u8]) -> Result<(), ApiError> {
    let host = std::str::from_utf8(host).unwrap_or("?");
    let name = host_name(host);
    let is_known = name.parse::<std::net::IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || hosts.iter().any(|known| known.eq_ignore_ascii_case(name));
    if is_known {
        return Ok(());
    }
    let shown: String = name.chars().take(100).collect();
    let message = format!(
        "this server has no keys and does not answer under the name {shown:?}; give it --allow-host {shown}, or keys"
    );
    Err(ApiError::new(StatusCode::FORBIDDEN, "host_not_allowed", message))
}

/// A host without its port. What is not written as a host is left as it is, and is no name that anybody knows.
fn host_name(host: &str) -> &str {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => (address, rest.strip_prefix(':').unwrap_or(rest)),
        None => host.rsplit_once(':').unwrap_or((host, "")),
    };
    if port.bytes().all(|byte| byte.is_ascii_digit()) { name } else { host }
}

/// The page's origin, if pages from there may ask.
fn allowed_origin(app: &App, headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = headers.get(header::ORIGIN)?;
    app.options.cors_origins.iter().any(|known| known.as_bytes() == origin.as_bytes()).then(|| origin.clone())
}

/// Headers that a page may send, in any case.
const HEADERS: [&str; 6] =
    ["authorization", "content-type", "x-api-key", "x-request-id", "anthropic-version", "anthropic-beta"];
/// The most others that it may ask for.
const MAX_ASKED: usize = 64;

/// What a browser wants to know before it lets a page ask. A page whose origin may ask may send what headers it likes, and
/// packages have names of their own for some; a header that is unknown here does nothing.
fn preflight(headers: &HeaderMap) -> Response {
    let allowed = allowed_headers(headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS));
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST")),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, allowed),
        (header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600")),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

/// Ours, and those that are asked for, if all of these are names of headers.
fn allowed_headers(asked: Option<&HeaderValue>) -> HeaderValue {
    let asked = asked.and_then(|asked| asked.to_str().ok()).unwrap_or_default();
    let names = asked.split(',').map(str::trim).filter(|name| !name.is_empty());
    let names: Option<Vec<HeaderName>> = names.map(|name| name.parse().ok()).take(MAX_ASKED + 1).collect();
    let names = names.filter(|names| names.len() <= MAX_ASKED).unwrap_or_default();
    let mut all = HEADERS.to_vec();
    all.extend(names.iter().map(HeaderName::as_str).filter(|name| !HEADERS.contains(name)));
    HeaderValue::from_str(&all.join(", ")).expect("names of headers are a header")
}

#[cfg(test)]
mod tests {
    use super::{HEADERS, HeaderValue, MAX_ASKED, allowed_headers, host_name};

    #[test]
    fn a_page_may_send_the_headers_that_it_asks_for() {
        let allowed = |asked: Option<&str>| {
            let asked = asked.map(|asked| HeaderValue::from_str(asked).unwrap());
            let allowed = allowed_headers(asked.as_ref()).to_str().unwrap().to_owned();
            allowed.strip_prefix(&HEADERS.join(", ")).unwrap().to_owned()
        };
        assert_eq!(allowed(None), "");
        assert_eq!(allowed(Some("authorization,X-Stainless-Os, openai-beta,,")), ", x-stainless-os, openai-beta");
        for wrong in ["a b", "x-ok,b:c", "*\t(", "x-\u{e9}"] {
            assert_eq!(allowed(Some(wrong)), "", "{wrong}");
        }
        let many = |n: usize| (0..n).map(|i| format!("x-{i}")).collect::<Vec<_>>().join(",");
        assert_eq!(allowed(Some(&many(MAX_ASKED))).matches(", x-").count(), MAX_ASKED);
        assert_eq!(allowed(Some(&many(MAX_ASKED + 1))), "");
    }

    #[test]
    fn a_host_is_read_without_its_port() {
        for (host, name) in [
            ("localhost", "localhost"),
            ("localhost:80", "localhost"),
            ("[::1]", "::1"),
            ("[::1]:80", "::1"),
            ("[::1].page", "[::1].page"),
            ("page:127.0.0.1", "page:127.0.0.1"),
            ("localhost:80:page", "localhost:80:page"),
            ("", ""),
        ] {
            assert_eq!(host_name(host), name);
        }
    }
}
