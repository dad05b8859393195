use std::path::PathBuf;

use crate::report::units;

/// Why a run could not be made, continued or finished.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A new run would write into an older one.
    #[error("{} already holds a run; continue it with `hadal resume {}`, or set `out` to another directory", .dir.display(), .dir.display())]
    RunExists {
        /// The directory.
        dir: PathBuf,
    },
    /// There is nothing to continue.
    #[error("{} holds no run: there is no {} in it", .dir.display(), .missing)]
    NoRun {
        /// The directory.
        dir: PathBuf,
        /// The file that every run has.
        missing: &'static str,
    },
    /// Two vocabularies do not fit.
    #[error(
        "the tokenizer has {tokenizer} ids, but the model's vocab_size is {model}; set model.set.vocab_size to at \
         least {tokenizer}"
    )]
    Vocabulary {
        /// Ids of the tokenizer.
        tokenizer: usize,
        /// `vocab_size` of the model.
        model: usize,
    },
    /// A checkpoint's state contradicts its recipe or its weights.
    #[error("cannot continue from {}: {what} is {found}, expected {expected}", .path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: String,
        /// What was found.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// `state.json` cannot be understood.
    #[error("cannot read the training state {}", .path.display())]
    StateSyntax {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The loss or the gradient is not a number, or the loss jumped: the weights are still those before the step.
    #[error(
        "stopped at step {step}: {problem}; the step's batch is {batch}; the last good checkpoint is {}",
        .checkpoint.as_ref().map_or("none".to_owned(), |p| p.display().to_string())
    )]
    Diverged {
        /// The step that was not taken.
        step: u64,
        /// What happened.
        problem: String,
        /// Which rows of which sources the step saw.
        batch: String,
        /// The newest checkpoint on disk.
        checkpoint: Option<PathBuf>,
    },
    /// The machine has not the memory that the run needs.
    #[error(
        "the run needs {}B of memory, and {}B are {limit}; {advice}; `hadal plan` shows what it is made of",
        units::scaled(*.needed as f64),
        units::scaled(*.available as f64)
    )]
    Memory {
        /// Bytes of the plan.
        needed: u64,
        /// Bytes that there are.
        available: u64,
        /// What limits them.
        limit: String,
        /// What to change.
        advice: String,
    },
    /// The compute threads could not be started.
    #[error(transparent)]
    Ctx(#[from] tensor::CtxError),
    /// The recipe was refused.
    #[error(transparent)]
    Recipe(#[from] config::RecipeError),
    /// The model configuration was refused.
    #[error(transparent)]
    Config(#[from] config::ModelConfigError),
    /// The corpus could not be prepared or read.
    #[error(transparent)]
    Data(#[from] data::Error),
    /// A tokenizer could not be read or written.
    #[error(transparent)]
    Tokenizer(#[from] tokenizer::TokenizerError),
    /// A tokenizer could not be trained.
    #[error("cannot train a tokenizer on the run's documents")]
    TrainTokenizer(#[from] tokenizer::TrainError),
    /// A checkpoint could not be read or written.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    /// A sample could not be drawn.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// Something could not be reported.
    #[error(transparent)]
    Report(#[from] crate::report::Error),
    /// The operating system refused a file.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// A result with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;
