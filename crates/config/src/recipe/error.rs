//! What can be wrong with a recipe.

use std::io;
use std::path::PathBuf;

use crate::model::ModelConfigError;
use crate::presets::UnknownPreset;
use crate::suggest::hint;

/// Why a recipe was refused. Every variant names the full dotted key.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// The file could not be read; the source names the path.
    #[error("cannot read the recipe")]
    Read(#[source] io::Error),
    /// The file was read and refused.
    #[error("cannot use the recipe {}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: Box<RecipeError>,
    },
    /// Not TOML.
    #[error("not valid TOML")]
    Syntax(#[source] Box<toml::de::Error>),
    /// A path that cannot be written into a recipe.
    #[error("the path {} is not UTF-8, which TOML requires", path.display())]
    NotUtf8 {
        /// The path.
        path: PathBuf,
    },
    /// A key the recipe does not have.
    #[error("unknown key \"{key}\"{}", hint(suggestion.as_deref()))]
    UnknownKey {
        /// The dotted key.
        key: String,
        /// The nearest known key, dotted.
        suggestion: Option<String>,
    },
    /// A value of another type.
    #[error("{key} must be {expected}, found {found}")]
    WrongType {
        /// The dotted key.
        key: String,
        /// What it must be.
        expected: String,
        /// The value found.
        found: String,
    },
    /// A required key is missing.
    #[error("{key} is missing: {meaning}")]
    Missing {
        /// The dotted key.
        key: String,
        /// What it would say.
        meaning: &'static str,
    },
    /// Exactly one of two keys is needed.
    #[error("give either {first} or {second}: {found}")]
    EitherOr {
        /// One key.
        first: String,
        /// The other.
        second: String,
        /// Which of them were found.
        found: &'static str,
    },
    /// A value outside its range.
    #[error("{key} must be {must}, found {found}")]
    OutOfRange {
        /// The dotted key.
        key: String,
        /// The value found.
        found: String,
        /// The range.
        must: &'static str,
    },
    /// Two keys that contradict each other.
    #[error("{key} = {found} and {other} = {other_found} do not fit: {rule}")]
    Conflict {
        /// The first key.
        key: String,
        /// Its value.
        found: String,
        /// The second key.
        other: String,
        /// Its value.
        other_found: String,
        /// The rule between them.
        rule: &'static str,
    },
    /// A `--set` argument that cannot be applied.
    #[error("cannot apply --set {argument}: {reason}")]
    Set {
        /// The argument.
        argument: String,
        /// Why not.
        reason: String,
    },
    /// `model.preset` names no preset.
    #[error("model.preset")]
    Preset(#[from] UnknownPreset),
    /// The model configuration is refused.
    #[error("the recipe's model")]
    Model(#[from] ModelConfigError),
}
