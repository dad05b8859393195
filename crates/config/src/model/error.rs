//! What can be wrong with a `config.json`.

use std::io;
use std::path::PathBuf;

use crate::suggest::hint;

/// Why a model configuration was refused. Every variant names the key as it stands in the file.
#[derive(Debug, thiserror::Error)]
pub enum ModelConfigError {
    /// The file could not be read; the source names the path.
    #[error("cannot read the model config")]
    Read(#[source] io::Error),
    /// The file could not be written; the source names the path.
    #[error("cannot write the model config")]
    Write(#[source] io::Error),
    /// The file was read and refused.
    #[error("cannot use the model config {}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: Box<ModelConfigError>,
    },
    /// Not JSON.
    #[error("not valid JSON")]
    Json(#[source] serde_json::Error),
    /// JSON, but not an object.
    #[error("a config.json is a JSON object, found {found}")]
    NotAnObject {
        /// The JSON type found instead.
        found: &'static str,
    },
    /// A required key is missing; guessing it would load a wrong model.
    #[error("{field} is missing and has no safe default")]
    Missing {
        /// The key.
        field: String,
    },
    /// A key holds another JSON type.
    #[error("{field} must be {expected}, found {found}")]
    WrongType {
        /// The key, dotted when nested.
        field: String,
        /// What it must be.
        expected: &'static str,
        /// The value found.
        found: String,
    },
    /// A value outside its range.
    #[error("{field} must be {must}, found {found}")]
    OutOfRange {
        /// The key, dotted when nested.
        field: String,
        /// The value found.
        found: String,
        /// The range.
        must: &'static str,
    },
    /// A value that exists but that this program does not implement.
    #[error("{field} is \"{found}\", which is not supported; accepted: {accepted}")]
    Unsupported {
        /// The key, dotted when nested.
        field: String,
        /// The value found.
        found: String,
        /// Every accepted value.
        accepted: &'static str,
    },
    /// Two keys that contradict each other.
    #[error("{field} = {found} and {other} = {other_found} do not fit: {rule}")]
    Conflict {
        /// The first key.
        field: String,
        /// Its value.
        found: String,
        /// The second key, or an expression of several.
        other: String,
        /// Its value.
        other_found: String,
        /// The rule between them.
        rule: &'static str,
    },
    /// The sizes multiply to more parameters than can be counted or held.
    #[error("the sizes multiply to about {estimate:.1e} parameters; at most {limit:.1e} are accepted")]
    TooManyParameters {
        /// Estimated parameters.
        estimate: f64,
        /// The bound.
        limit: f64,
    },
    /// An override names a key that neither this program nor the config knows.
    #[error("unknown model config key \"{key}\"{}", hint(suggestion.as_deref()))]
    UnknownOverride {
        /// The key.
        key: String,
        /// The nearest known key.
        suggestion: Option<String>,
    },
}
