use std::collections::BTreeMap;

use crate::EvalError;

/// A question with its one right answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// What the model is given to complete.
    pub prompt: String,
    /// What it should write next, white space around it aside.
    pub answer: String,
    /// How often a guess is right that knows what an answer looks like and nothing of the task; none where no such
    /// number makes sense.
    pub chance: Option<f64>,
}

/// Questions of one kind, with what one needs to judge how well they are answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Its row in the table.
    pub name: String,
    /// The questions, which the model must never have been trained on.
    pub items: Vec<Item>,
    /// Answers to questions of this kind that the model was trained on: the majority baseline is taken from them.
    pub training_answers: Vec<String>,
}

impl Task {
    /// The answer that is most frequent in training, the first in alphabetical order among equals; none without
    /// training answers.
    pub fn majority_answer(&self) -> Option<&str> {
        let mut counts = BTreeMap::<&str, usize>::new();
        for answer in &self.training_answers {
            *counts.entry(answer.trim()).or_default() += 1;
        }
        // `max_by_key` keeps the last of equals, so the map is walked backwards.
        counts.into_iter().rev().max_by_key(|&(_, count)| count).map(|(answer, _)| answer)
    }

    /// What share of the items one gets right who always gives the majority answer.
    pub(crate) fn majority_baseline(&self) -> Option<f64> {
        let majority = self.majority_answer()?;
        let right = self.items.iter().filter(|item| item.answer == majority).count();
        Some(right as f64 / self.items.len() as f64)
    }

    /// The mean of the items' chances; none unless every item has one.
    pub(crate) fn chance_baseline(&self) -> Option<f64> {
        let sum = self.items.iter().map(|item| item.chance).sum::<Option<f64>>()?;
        Some(sum / self.items.len() as f64)
    }

    pub(crate) fn validate(&self, stop: &str) -> Result<(), EvalError> {
        if self.items.is_empty() {
            return Err(EvalError::NoItems { task: self.name.clone() });
        }
        for (index, Item { answer, .. }) in self.items.iter().enumerate() {
            let reason = if answer.trim() != answer {
                "completions are compared without the white space around them, so trim the answer"
            } else if !stop.is_empty() && answer.contains(stop) {
                "it contains the stop string, where every completion ends"
            } else {
                continue;
            };
            return Err(EvalError::Unanswerable { task: self.name.clone(), index, answer: answer.clone(), reason });
        }
        Ok(())
    }
}
