//! What a request hears when it cannot be answered.

use axum::http::StatusCode;
use serde_json::{Value, json};

use engine::Refused;

/// Why a request is not answered: what was wrong, what was found, and what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The status of the response, if none was sent yet.
    pub status: StatusCode,
    /// A stable name, for programs.
    pub code: &'static str,
    /// The field that is to blame, as a path such as `messages[0].content`.
    pub param: Option<String>,
    /// For people.
    pub message: String,
    /// Seconds after which to try again.
    pub retry_after: Option<u64>,
}

impl ApiError {
    /// An error that no field is to blame for.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, param: None, message: message.into(), retry_after: None }
    }

    /// 400 with a field.
    pub(crate) fn field(code: &'static str, param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::new(StatusCode::BAD_REQUEST, code, message) }
    }

    /// 400 without one.
    pub(crate) fn bad_request(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// A fault of the program.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
    }

    pub(crate) fn with_retry_after(self, seconds: u64) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    /// As OpenAI's interface has it.
    pub(crate) fn openai(&self) -> Value {
        let Self { code, param, message, .. } = self;
        let kind = match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        json!({ "error": { "message": message, "type": kind, "param": param, "code": code } })
    }

    /// As Anthropic's interface has it.
    pub(crate) fn anthropic(&self, request_id: Option<&str>) -> Value {
        let kind = match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 => "overloaded_error",
            504 => "timeout_error",
            500.. => "api_error",
            _ => "invalid_request_error",
        };
        let message = match &self.param {
            Some(param) if !self.message.contains(param.as_str()) => format!("{param}: {}", self.message),
            _ => self.message.clone(),
        };
        json!({ "type": "error", "error": { "type": kind, "message": message, "code": self.code }, "request_id": request_id })
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        let (code, flags) = match refused {
            Refused::Requests { .. } => {
                ("too_many_requests_waiting", " (--max-enqueued-batches, in batches of --max-batch-size)")
            }
            Refused::Tokens { .. } => ("too_many_tokens_waiting", " (--max-enqueued-tokens)"),
            _ => ("draining", ""),
        };
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, format!("{refused}{flags}")).with_retry_after(1)
    }
}

impl From<engine::Error> for ApiError {
    fn from(error: engine::Error) -> Self {
        let message = error.to_string();
        match error {
            engine::Error::EmptyPrompt => Self::bad_request("empty_prompt", message),
            engine::Error::TokenId { .. } => Self::bad_request("invalid_token", message),
            engine::Error::Context { .. } => Self::bad_request("context_length_exceeded", message),
            engine::Error::Cache { .. } => Self::bad_request("cache_exceeded", format!("{message} (--kv-memory)")),
            engine::Error::Limit { field, .. } => Self::field("invalid_value", field, message),
            engine::Error::Constraint(_) => Self::field("grammar_failed", "response_format", message),
            engine::Error::Bias { .. } => Self::field("invalid_value", "logit_bias", message),
            engine::Error::Sampling(ops::sampling::Error::Range { field, .. }) => {
                Self::field("invalid_value", field, message)
            }
            engine::Error::Sampling(ops::sampling::Error::Masked { .. }) => {
                Self::field("invalid_value", "logit_bias", message)
            }
            engine::Error::Stopped => Self::new(StatusCode::SERVICE_UNAVAILABLE, "draining", message),
            _ => Self::internal(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_name_the_option_that_sets_them() {
        let waiting = ApiError::from(Refused::Requests { waiting: 8, limit: 8 });
        assert_eq!(waiting.code, "too_many_requests_waiting");
        assert!(waiting.message.contains("8 requests wait") && waiting.message.contains("--max-enqueued-batches"));
        let tokens = ApiError::from(Refused::Tokens { waiting: 8, tokens: 2, limit: 9 });
        assert!(tokens.message.contains("--max-enqueued-tokens"), "{tokens}");
        let cache = ApiError::from(engine::Error::Cache { tokens: 200, limit: 128 });
        assert!(cache.message.contains("--kv-memory"), "{cache}");
        assert!(!ApiError::from(Refused::Draining).message.contains("--"));
    }
}
