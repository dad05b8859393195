use std::error::Error;

/// Why an evaluation has no result.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// A share of nothing is no number.
    #[error("the task {task:?} has no items to evaluate; give it at least one")]
    NoItems {
        /// The task.
        task: String,
    },
    /// Two rows of one name could not be told apart.
    #[error("two tasks are named {task:?}; give each a name of its own")]
    SameName {
        /// The name.
        task: String,
    },
    /// A batch of no prompts would never end.
    #[error("prompts are to be completed in batches of 0; the batch size must be at least 1")]
    EmptyBatch,
    /// An answer that a trimmed completion can never equal, so the result would be wrong, not low.
    #[error("item {index} of the task {task:?} expects {answer:?}, which no completion equals: {reason}")]
    Unanswerable {
        /// The task.
        task: String,
        /// The place of the item in the task, from 0.
        index: usize,
        /// The expected answer.
        answer: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The model failed.
    #[error("items {first} to {last} of the task {task:?} could not be completed")]
    Completer {
        /// The task.
        task: String,
        /// The place of the first item of the batch, from 0.
        first: usize,
        /// The place of its last item.
        last: usize,
        /// The completer's own error.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A bug of the completer, which would shift answers to other questions.
    #[error("{prompts} prompts of the task {task:?} were given, but {completions} completions came back")]
    WrongCount {
        /// The task.
        task: String,
        /// How many prompts the completer was given.
        prompts: usize,
        /// How many completions it returned.
        completions: usize,
    },
}
