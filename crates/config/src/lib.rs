//! What a model is and what a run is: Hugging Face's `config.json`, the TOML recipe of a training run, and the
//! environment.
//!
//! Everything here is validated once, when it is read; the types handed out cannot hold a contradiction. The crate
//! knows no tensor, no weight file and no device.

pub mod counts;
pub mod env;
pub mod model;
pub mod presets;
pub mod recipe;
pub mod suggest;

pub use counts::Counts;
pub use model::{
    Dtype, ModelConfig, ModelConfigError, ModelFields, ModelType, QuantizationConfig, ScaleFormat, Scoring, TopkMethod,
    Weight, WeightFormat, WeightPart, Yarn,
};
pub use recipe::{Recipe, RecipeError};
