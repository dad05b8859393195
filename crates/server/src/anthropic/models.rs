//! `/v1/models`, for those who say that they speak this interface.

use serde_json::{Value, json};

use crate::app::App;
use crate::error::ApiError;
use crate::served::Served;

/// The list, which has one page.
pub(crate) fn list(app: &App) -> Value {
    let models: Vec<Value> = match app.versions.newest() {
        Some(served) => app.options.names.iter().map(|name| entry(name, &served)).collect(),
        None => Vec::new(),
    };
    let id = |model: Option<&Value>| model.map_or(Value::Null, |model| model["id"].clone());
    json!({ "first_id": id(models.first()), "last_id": id(models.last()), "has_more": false, "data": models })
}

/// One model, as `NAME` or `NAME@VERSION`.
pub(crate) fn one(app: &App, name: &str) -> Result<Value, ApiError> {
    let served = app.versions.find(&app.options, Some(name))?;
    Ok(entry(name, &served))
}

fn entry(name: &str, served: &Served) -> Value {
    json!({
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": crate::clock::rfc3339(served.created),
        "max_input_tokens": served.max_model_len,
        "max_tokens": served.max_model_len,
    })
}
