use std::collections::BTreeSet;

use crate::{Completer, EvalError, Failure, Interval, Item, Report, Task, TaskResult};

/// How to evaluate.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Where an answer ends, usually a line end; an empty string means nowhere.
    pub stop: String,
    /// The longest answer. An answer cut short here is not right.
    pub max_tokens: usize,
    /// How many prompts the completer gets at a time.
    pub batch: usize,
    /// How many failures of each task the report keeps, the first ones.
    pub keep_failures: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { stop: "\n".to_owned(), max_tokens: 32, batch: 32, keep_failures: 10 }
    }
}

/// Has every question of every task answered and counts the answers that are exactly right, white space around them
/// aside. `progress` is told after each batch how many items are done and how many there are.
///
/// # Errors
/// When a task is empty, cannot be answered or shares its name, when the batch size is 0, or when the completer fails.
pub fn evaluate<C: Completer>(
    completer: &mut C,
    tasks: &[Task],
    options: &Options,
    mut progress: impl FnMut(usize, usize),
) -> Result<Report, EvalError> {
    if options.batch == 0 {
        return Err(EvalError::EmptyBatch);
    }
    let mut names = BTreeSet::new();
    for task in tasks {
        task.validate(&options.stop)?;
        if !names.insert(&task.name) {
            return Err(EvalError::SameName { task: task.name.clone() });
        }
    }

    let total = tasks.iter().map(|task| task.items.len()).sum();
    let mut done = 0;
    let mut results = Vec::new();
    for task in tasks {
        let mut correct = 0;
        let mut failures = Vec::new();
        let mut first = 0;
        for items in task.items.chunks(options.batch) {
            for (item, completion) in items.iter().zip(complete(completer, task, items, first, options)?) {
                let got = answer_in(&completion, &options.stop);
                if got == item.answer {
                    correct += 1;
                } else if failures.len() < options.keep_failures {
                    let (prompt, expected) = (item.prompt.clone(), item.answer.clone());
                    failures.push(Failure { prompt, expected, got: got.to_owned() });
                }
            }
            first += items.len();
            done += items.len();
            progress(done, total);
        }
        let n = task.items.len();
        results.push(TaskResult {
            task: task.name.clone(),
            n,
            correct,
            exact_match: correct as f64 / n as f64,
            interval: Interval::wilson(correct, n),
            majority: task.majority_baseline(),
            chance: task.chance_baseline(),
            failures,
        });
    }
    Ok(Report { tasks: results })
}

/// The completions of a batch that begins at item `first` of its task.
fn complete<C: Completer>(
    completer: &mut C,
    task: &Task,
    items: &[Item],
    first: usize,
    options: &Options,
) -> Result<Vec<String>, EvalError> {
    let prompts: Vec<String> = items.iter().map(|item| item.prompt.clone()).collect();
    let completions = completer.complete(&prompts, &options.stop, options.max_tokens).map_err(|source| {
        EvalError::Completer { task: task.name.clone(), first, last: first + items.len() - 1, source: Box::new(source) }
    })?;
    if completions.len() != prompts.len() {
        let (prompts, completions) = (prompts.len(), completions.len());
        return Err(EvalError::WrongCount { task: task.name.clone(), prompts, completions });
    }
    Ok(completions)
}

/// What a completion answers. A completer may stop at a token in which more follows the stop string.
fn answer_in<'a>(completion: &'a str, stop: &str) -> &'a str {
    let end = if stop.is_empty() { None } else { completion.find(stop) };
    completion[..end.unwrap_or(completion.len())].trim()
}
