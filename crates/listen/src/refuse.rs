//! What those hear for whom there is no room.

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;

/// Answers 503 to everything, and closes the connection.
pub(crate) fn router() -> Router {
    Router::new().fallback(|| async {
        let body = r#"{"error":{"message":"the server has as many connections as it may have (--max-connections); try again later","type":"server_error","param":null,"code":"too_many_connections"}}"#;
        let headers =
            [(header::CONTENT_TYPE, "application/json"), (header::RETRY_AFTER, "1"), (header::CONNECTION, "close")];
        (StatusCode::SERVICE_UNAVAILABLE, headers, body).into_response()
    })
}
