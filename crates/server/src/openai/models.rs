//! `/v1/models`, and the versions of one.

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::app::App;
use crate::error::ApiError;
use crate::served::Served;
use crate::versions::State;

/// The list.
pub(crate) fn list(app: &App) -> Value {
    let served = app.versions.newest();
    let models: Vec<Value> = match served {
        Some(served) => app.options.names.iter().map(|name| entry(app, name, &served)).collect(),
        None => Vec::new(),
    };
    json!({ "object": "list", "data": models })
}

/// One model, as `NAME` or `NAME@VERSION`.
pub(crate) fn one(app: &App, name: &str) -> Result<Value, ApiError> {
    let served = app.versions.find(&app.options, Some(name))?;
    Ok(entry(app, name, &served))
}

fn entry(app: &App, name: &str, served: &Served) -> Value {
    json!({
        "id": name,
        "object": "model",
        "created": served.created,
        "owned_by": "hadal",
        "root": app.options.names[0],
        "parent": null,
        "max_model_len": served.max_model_len,
        "version": served.version.to_string(),
    })
}

/// The states of all versions, as TensorFlow Serving reports them.
pub(crate) fn versions(app: &App, name: &str) -> Result<Value, ApiError> {
    if !app.options.names.iter().any(|own| own == name) {
        let shown: String = name.chars().take(128).collect();
        let message = format!("there is no model {shown:?} here; {:?} is", app.options.names[0]);
        return Err(ApiError::new(StatusCode::NOT_FOUND, "model_not_found", message));
    }
    let status = |(version, state): (u64, State)| {
        let (code, message) = match &state {
            State::End(Some(error)) => ("UNKNOWN", error.to_string()),
            _ => ("OK", String::new()),
        };
        json!({
            "version": version.to_string(),
            "state": state.name(),
            "status": { "error_code": code, "error_message": message },
        })
    };
    let states: Vec<Value> = app.versions.states().into_iter().map(status).collect();
    Ok(json!({ "model_version_status": states }))
}
