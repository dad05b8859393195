//! Bodies of requests, read within limits of size, time and memory.

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::sync::OwnedSemaphorePermit;

use crate::app::App;
use crate::error::ApiError;

/// A body, and the room that it takes.
pub(crate) struct Read {
    pub(crate) bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

/// Reads a JSON body.
///
/// # Errors
/// When it is no JSON by its headers, too large, too slow, or cut short.
pub(crate) async fn read(app: &App, headers: &HeaderMap, body: Body) -> Result<Read, ApiError> {
    check_type(headers)?;
    let limit = app.options.max_body_bytes;
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > limit as u64) {
        return Err(too_large(limit));
    }
    // A body that does not say how long it is may become as long as is allowed.
    let room = length.map_or(limit, |length| length as usize).div_ceil(1024).max(1) as u32;
    let reading = async {
        let room = app.bodies.clone().acquire_many_owned(room).await.expect("nobody closes it");
        let bytes = Limited::new(body, limit).collect().await;
        (room, bytes)
    };
    match tokio::time::timeout(app.options.body_timeout, reading).await {
        Ok((room, Ok(bytes))) => Ok(Read { bytes: bytes.to_bytes(), _room: room }),
        Ok((_, Err(error))) if error.is::<LengthLimitError>() => Err(too_large(limit)),
        Ok((_, Err(error))) => {
            Err(ApiError::bad_request("incomplete_body", format!("the body ended before it was whole: {error}")))
        }
        Err(_) => {
            let message = format!("the body did not arrive within {:?}", app.options.body_timeout);
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message))
        }
    }
}

/// Pages of other origins can send anything but JSON without being asked by the browser first.
fn check_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let unsupported =
        |message: String| Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message));
    let kind = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?"));
    let media = kind.map(|kind| kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    if media.as_deref() != Some("application/json") {
        let found: String = kind.unwrap_or("nothing").chars().take(100).collect();
        return unsupported(format!("content-type must be application/json, not {found}"));
    }
    if let Some(encoding) = headers.get(header::CONTENT_ENCODING)
        && encoding != "identity"
    {
        return unsupported("compressed bodies are not read; send it without content-encoding".to_owned());
    }
    Ok(())
}

fn too_large(limit: usize) -> ApiError {
    let message = format!("the body is larger than {limit} bytes, the most that is read");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
}
