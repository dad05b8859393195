//! What a gateway answers when no backend does.

use std::time::Duration;

use axum::body::Body;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use serde_json::json;

/// Why a request is not answered by a backend.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("a gateway does not open connections for its clients; send requests for its own paths, such as /v1/models")]
    Method,
    #[error("this path of the gateway itself is for GET alone")]
    OwnMethod,
    #[error("the target '{0}' is not a path; it must begin with a slash, such as /v1/models")]
    Target(String),
    #[error("a gateway speaks HTTP alone and does not upgrade to another protocol; leave the header 'upgrade' out")]
    Upgrade,
    #[error(
        "the request has gone through as many gateways as may stand behind one another; is a gateway among the backends of \
         its own backends?"
    )]
    Round,
    #[error("the body is larger than the limit of {limit} bytes (max_body_bytes); send less")]
    TooLarge { limit: usize },
    #[error("the body did not arrive within {seconds} seconds (body_timeout); send it faster")]
    Slow { seconds: f64 },
    #[error("the body broke off: {0}")]
    Cut(String),
    #[error("the requests under way hold as many bytes as they may (max_buffered_bytes is {limit}); try again later")]
    Full { limit: usize },
    #[error("no backend is ready; try again later")]
    NoneReady { retry_after: Duration },
    #[error("the connection to the backend broke before it answered")]
    Broken,
    #[error("the backend answered with a change of protocol that nobody asked for")]
    Protocol,
    #[error(
        "the backend did not begin its answer within {seconds} seconds (response_timeout); ask for fewer tokens or stream"
    )]
    Timeout { seconds: f64 },
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::Method | Self::OwnMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::Target(_) | Self::Upgrade | Self::Cut(_) => StatusCode::BAD_REQUEST,
            Self::Round => StatusCode::LOOP_DETECTED,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Slow { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::Full { .. } | Self::NoneReady { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Broken | Self::Protocol => StatusCode::BAD_GATEWAY,
            Self::Timeout { .. } => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Method | Self::OwnMethod => "method_not_allowed",
            Self::Target(_) => "invalid_target",
            Self::Upgrade => "upgrade_refused",
            Self::Round => "gateway_loop",
            Self::TooLarge { .. } => "body_too_large",
            Self::Slow { .. } => "body_timeout",
            Self::Cut(_) => "body_incomplete",
            Self::Full { .. } => "gateway_full",
            Self::NoneReady { .. } => "no_backend",
            Self::Broken | Self::Protocol => "backend_failed",
            Self::Timeout { .. } => "backend_timeout",
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::NoneReady { retry_after } => Some(*retry_after),
            Self::Full { .. } => Some(Duration::from_secs(1)),
            _ => None,
        }
    }

    /// The answer to a request for `path`: an error as the API of that path has them.
    pub(crate) fn answer(&self, path: &str) -> Response<Body> {
        let status = self.status();
        let message = self.to_string();
        let body = if path.starts_with("/v1/messages") {
            let kind = match status {
                StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
                StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
                StatusCode::GATEWAY_TIMEOUT => "timeout_error",
                status if status.is_server_error() => "api_error",
                _ => "invalid_request_error",
            };
            json!({"type": "error", "error": {"type": kind, "message": message}})
        } else {
            let kind = if status.is_server_error() { "server_error" } else { "invalid_request_error" };
            json!({"error": {"message": message, "type": kind, "param": null, "code": self.code()}})
        };
        let mut response = json_response(status, &body);
        if let Some(after) = self.retry_after() {
            let seconds = (after.as_secs() + u64::from(after.subsec_nanos() > 0)).max(1);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        let allowed = match self {
            Self::Method => Some("GET, HEAD, POST, OPTIONS"),
            Self::OwnMethod => Some("GET, HEAD"),
            _ => None,
        };
        if let Some(allowed) = allowed {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
        }
        response
    }
}

/// An answer of the gateway itself.
pub(crate) fn json_response(status: StatusCode, body: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
