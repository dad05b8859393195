//! What the model can and cannot do, on items it never saw.

use std::fmt::Write;

use anyhow::Result;
use data::synth::{Register, held_out_items, training_items};
use engine::{Request, Sampling};
use eval::{Completer, Item, Options, Report, Task, evaluate};
use tokenizer::Role;
use train::Run;
use train::report::html::EvaluationRow;

/// Items of each register.
const ITEMS: usize = 200;
/// Training items from which the commonest answer is taken.
const TRAINING_ITEMS: usize = 2000;

/// The report in the run's directory, made now if it is not there.
pub(super) fn load_or_run(run: &Run, seed: u64) -> Result<Report> {
    let file = run.dir.root().join("evaluation.json");
    if file.exists() {
        return Ok(serde_json::from_slice(&fs_err::read(&file)?)?);
    }
    eprintln!("evaluating {ITEMS} unseen items of each task");
    let tasks: Vec<Task> = Register::ALL.into_iter().map(|register| task(seed, register)).collect();
    let options = Options { stop: "\n".to_owned(), max_tokens: 32, batch: 64, keep_failures: 1 };
    let tokenizer = &run.tokenizer;
    let mut model = Model { run, bos: tokenizer.require(Role::Bos)?, eos: tokenizer.require(Role::Eos)? };
    let report = evaluate(&mut model, &tasks, &options, |_, _| {})?;
    checkpoint::write_file_atomically(&file, &serde_json::to_vec_pretty(&report)?)?;
    Ok(report)
}

fn task(seed: u64, register: Register) -> Task {
    let item = |item: data::synth::Item| Item { prompt: item.prompt(), answer: item.answer, chance: Some(item.chance) };
    Task {
        name: register.name().to_owned(),
        items: held_out_items(seed, register, ITEMS).into_iter().map(item).collect(),
        training_answers: training_items(seed, register, TRAINING_ITEMS).into_iter().map(|i| i.answer).collect(),
    }
}

/// The run's model, answering greedily.
struct Model<'a> {
    run: &'a Run,
    bos: u32,
    eos: u32,
}

impl Completer for Model<'_> {
    type Error = engine::Error;

    fn complete(&mut self, prompts: &[String], stop: &str, max_tokens: usize) -> Result<Vec<String>, engine::Error> {
        let tokenizer = &self.run.tokenizer;
        let requests: Vec<Request> = prompts
            .iter()
            .map(|prompt| Request {
                sampling: Sampling { temperature: 0.0, ..Sampling::default() },
                stop: vec![self.eos],
                vocab_limit: tokenizer.vocab_size(),
                // Every document of the corpus begins with BOS.
                ..Request::new([vec![self.bos], tokenizer.encode_untrusted(prompt)].concat(), max_tokens)
            })
            .collect();
        let ended = |tokens: &[u32]| tokenizer.decode(tokens, true).contains(stop);
        let completions = engine::complete_until(&self.run.ctx, &self.run.model, &requests, ended)?;
        Ok(completions
            .into_iter()
            .map(|completion| {
                let text = tokenizer.decode(&completion.tokens, true);
                text.split(stop).next().unwrap_or_default().to_owned()
            })
            .collect())
    }
}

/// The report as the page shows it.
pub(super) fn rows(report: &Report) -> Vec<EvaluationRow> {
    report
        .tasks
        .iter()
        .map(|task| EvaluationRow {
            register: task.task.clone(),
            n: task.n as u64,
            exact_match: task.exact_match,
            interval: (task.interval.low, task.interval.high),
            baseline: task.majority.unwrap_or(0.0),
        })
        .collect()
}

/// One wrong answer of each task, if there is one.
pub(super) fn failures(report: &Report) -> String {
    let mut out = String::new();
    for task in &report.tasks {
        if let Some(failure) = task.failures.first() {
            let last = failure.prompt.lines().last().unwrap_or_default();
            let _ = writeln!(out, "wrong in {}: {last} {:?}, not {:?}", task.task, failure.got, failure.expected);
        }
    }
    out
}
