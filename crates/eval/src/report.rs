use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Interval;

/// What an evaluation found. It is shown as an aligned table and serialised as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// One result a task, in the order of the tasks.
    pub tasks: Vec<TaskResult>,
}

/// How well one task was done. All shares are in `[0, 1]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskResult {
    /// The task's name.
    pub task: String,
    /// How many items were asked.
    pub n: usize,
    /// How many answers were exactly right.
    pub correct: usize,
    /// Their share.
    pub exact_match: f64,
    /// Where the share over all items of this kind lies, with 95 % confidence.
    pub interval: Interval,
    /// The share of one who always gives the answer most frequent in training.
    pub majority: Option<f64>,
    /// The share of one who guesses among what looks like an answer.
    pub chance: Option<f64>,
    /// The first wrong answers.
    pub failures: Vec<Failure>,
}

/// A wrong answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What the model was given.
    pub prompt: String,
    /// What it should have written.
    pub expected: String,
    /// What it wrote, up to the stop string, without white space around it.
    pub got: String,
}

impl Report {
    /// The titles of the columns of [`Report::rows`].
    pub const COLUMNS: [&str; 6] = ["task", "n", "exact match", "95 % interval", "majority", "chance"];

    /// The cells of the table, a row for each task: for the terminal, the report page or a document.
    pub fn rows(&self) -> Vec<[String; 6]> {
        let or_dash = |share: Option<f64>| share.map_or_else(|| "-".to_owned(), percent);
        let row = |result: &TaskResult| {
            [
                result.task.clone(),
                result.n.to_string(),
                percent(result.exact_match),
                format!("{} to {}", percent(result.interval.low), percent(result.interval.high)),
                or_dash(result.majority),
                or_dash(result.chance),
            ]
        };
        self.tasks.iter().map(row).collect()
    }

    /// The result of the task of this name.
    pub fn task(&self, name: &str) -> Option<&TaskResult> {
        self.tasks.iter().find(|result| result.task == name)
    }
}

impl fmt::Display for Report {
    /// The table, names to the left and numbers to the right, every line ended.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = Self::COLUMNS.map(str::to_owned);
        let rows = self.rows();
        let lines: Vec<&[String; 6]> = std::iter::once(&head).chain(&rows).collect();
        let widths: [usize; 6] =
            std::array::from_fn(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0));
        for line in lines {
            write!(f, "{:<width$}", line[0], width = widths[0])?;
            for (cell, width) in line.iter().zip(widths).skip(1) {
                write!(f, "  {cell:>width$}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// A share in per cent. It reads 100 or 0 only when it is exactly that.
fn percent(share: f64) -> String {
    let rounded = (share * 1000.0).round() / 10.0;
    let shown = if rounded == 100.0 && share < 1.0 { 99.9 } else { rounded };
    if shown == 0.0 && share > 0.0 { "< 0.1 %".to_owned() } else { format!("{shown:.1} %") }
}
