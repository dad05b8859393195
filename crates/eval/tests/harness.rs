//! The harness against completers whose results are known.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;

use eval::{Completer, EvalError, Interval, Item, Options, Report, Task, evaluate};

/// Answers each prompt by a function of it, and remembers the sizes of its batches.
struct Fake<F> {
    answer: F,
    batches: Vec<usize>,
}

impl<F: FnMut(&str) -> String> Completer for Fake<F> {
    type Error = Infallible;

    fn complete(&mut self, prompts: &[String], stop: &str, max_tokens: usize) -> Result<Vec<String>, Infallible> {
        assert_eq!((stop, max_tokens), ("\n", 32));
        self.batches.push(prompts.len());
        Ok(prompts.iter().map(|prompt| (self.answer)(prompt)).collect())
    }
}

fn fake<F: FnMut(&str) -> String>(answer: F) -> Fake<F> {
    Fake { answer, batches: Vec::new() }
}

/// A hundred sums whose answers are their last digits, and forty questions of two answers.
fn tasks() -> Vec<Task> {
    let digit = |n: usize| (n % 10).to_string();
    let yes = |n: usize| if n.is_multiple_of(4) { "no" } else { "yes" }.to_owned();
    let item = |prompt: String, answer, chance| Item { prompt, answer, chance };
    vec![
        Task {
            name: "digits".to_owned(),
            items: (0..100).map(|n| item(format!("{n} ends in"), digit(n), Some(0.125))).collect(),
            // The digit 3 comes eleven times, the others ten times.
            training_answers: (0..100).map(digit).chain([digit(3)]).collect(),
        },
        Task {
            name: "yes or no".to_owned(),
            items: (0..40).map(|n| item(format!("is {n} odd or half odd?"), yes(n), None)).collect(),
            training_answers: (0..9).map(yes).collect(),
        },
    ]
}

fn run(answer: impl FnMut(&str) -> String) -> Report {
    evaluate(&mut fake(answer), &tasks(), &Options::default(), |_, _| ()).unwrap()
}

fn oracle(prompt: &str) -> String {
    let answers: BTreeMap<String, String> =
        tasks().into_iter().flat_map(|task| task.items).map(|item| (item.prompt, item.answer)).collect();
    format!(" {}", answers[prompt])
}

#[test]
fn an_oracle_is_always_right() {
    let report = run(oracle);
    assert!(report.tasks.iter().all(|task| task.exact_match == 1.0 && task.correct == task.n));
    assert!(report.tasks.iter().all(|task| task.failures.is_empty() && task.interval.high == 1.0));
    assert!(report.task("digits").unwrap().interval.low > 0.96);
}

#[test]
fn the_majority_answer_scores_the_majority_baseline() {
    let tasks = tasks();
    assert_eq!(tasks[0].majority_answer(), Some("3"));
    let report = run(|prompt| tasks[usize::from(prompt.starts_with("is "))].majority_answer().unwrap().to_owned());
    let shares: Vec<f64> = report.tasks.iter().map(|task| task.exact_match).collect();
    assert_eq!(shares, [0.1, 0.75]);
    for task in &report.tasks {
        assert_eq!(task.majority, Some(task.exact_match));
    }
    assert_eq!(report.tasks.iter().map(|task| task.chance).collect::<Vec<_>>(), [Some(0.125), None]);
}

#[test]
fn among_equally_frequent_answers_the_first_in_order_is_the_majority() {
    let task = Task {
        name: "t".to_owned(),
        items: vec![],
        training_answers: ["b", "a", "c", "b", "a"].map(String::from).to_vec(),
    };
    assert_eq!(task.majority_answer(), Some("a"));
    assert_eq!(Task { training_answers: vec![], ..task }.majority_answer(), None);
}

#[test]
fn garbage_is_never_right_and_is_shown() {
    let report = run(|_| "  qwerty \nno".to_owned());
    for task in &report.tasks {
        assert_eq!((task.correct, task.interval.low, task.failures.len()), (0, 0.0, 10));
        assert!(task.failures.iter().all(|failure| failure.got == "qwerty"));
    }
    let failure = &report.tasks[0].failures[7];
    assert_eq!((failure.prompt.as_str(), failure.expected.as_str()), ("7 ends in", "7"));
}

#[test]
fn only_the_text_before_the_stop_counts_and_it_must_match_whole() {
    assert!(run(|prompt| format!("{} \n\n3", oracle(prompt))).tasks.iter().all(|task| task.exact_match == 1.0));
    for wrong in [|a: String| format!("{a}."), |a: String| a.to_uppercase() + " x", |_| String::new()] {
        assert!(run(|prompt| wrong(oracle(prompt))).tasks.iter().all(|task| task.correct == 0));
    }
}

#[test]
fn batches_cover_every_item_once_and_progress_is_told() {
    for batch in [1, 7, 100, 1000] {
        let mut completer = fake(oracle);
        let mut told = Vec::new();
        let options = Options { batch, ..Options::default() };
        let report = evaluate(&mut completer, &tasks(), &options, |done, total| told.push((done, total))).unwrap();
        assert_eq!(completer.batches.iter().sum::<usize>(), 140);
        assert_eq!(completer.batches.len(), 100_usize.div_ceil(batch) + 40_usize.div_ceil(batch));
        assert!(completer.batches.iter().all(|&size| size <= batch) && told.is_sorted());
        assert_eq!((told.len(), told.last()), (completer.batches.len(), Some(&(140, 140))));
        assert_eq!(report, run(oracle));
    }
}

#[test]
fn the_table_is_aligned() {
    let report = run(|prompt| if prompt.starts_with('7') { String::new() } else { oracle(prompt) });
    let expected = "\
task         n  exact match     95 % interval  majority  chance
digits     100       89.0 %  81.4 % to 93.7 %    10.0 %  12.5 %
yes or no   40      100.0 %  91.2 % to 100.0 %    75.0 %       -
";
    let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(squeeze(&report.to_string()), squeeze(expected));
    let text = report.to_string();
    let lengths: Vec<usize> = text.lines().map(|line| line.chars().count()).collect();
    assert_eq!((lengths[0], lengths[1]), (lengths[1], lengths[2]), "{text}");
}

#[test]
fn a_share_is_rounded_to_certainty_only_when_it_is_certain() {
    let mut report = run(oracle);
    let mut shown = |share: f64| {
        report.tasks[0].exact_match = share;
        report.rows()[0][2].clone()
    };
    let cells = [0.0, 0.0001, 0.5, 0.9996, 1.0].map(&mut shown);
    assert_eq!(cells, ["0.0 %", "< 0.1 %", "50.0 %", "99.9 %", "100.0 %"]);
}

#[test]
fn a_report_survives_json() {
    let report = run(|_| "garbage \"quoted\"".to_owned());
    let json = serde_json::to_string_pretty(&report).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["tasks"][0]["interval"]["low"], 0.0);
    assert_eq!(value["tasks"][1]["chance"], serde_json::Value::Null);
    assert_eq!(report.tasks[0].interval, Interval::wilson(0, 100));
}

/// Fails, or returns one completion too few.
struct Broken {
    fails: bool,
}

impl Completer for Broken {
    type Error = io::Error;

    fn complete(&mut self, prompts: &[String], _: &str, _: usize) -> io::Result<Vec<String>> {
        if self.fails { Err(io::Error::other("out of blocks")) } else { Ok(vec![String::new(); prompts.len() - 1]) }
    }
}

#[test]
fn what_cannot_be_evaluated_is_refused() {
    let refused = |tasks: &[Task], options: &Options| {
        evaluate(&mut fake(oracle), tasks, options, |_, _| ()).unwrap_err().to_string()
    };
    let options = Options::default();
    let with_answer = |answer: &str| {
        let mut tasks = tasks();
        tasks[1].items[3].answer = answer.to_owned();
        tasks
    };
    let empty = Task { items: Vec::new(), ..tasks().remove(0) };
    assert_eq!(refused(&[empty], &options), "the task \"digits\" has no items to evaluate; give it at least one");
    let twice = [tasks(), tasks()].concat();
    assert_eq!(refused(&twice, &options), "two tasks are named \"digits\"; give each a name of its own");
    let no_batch = Options { batch: 0, ..Options::default() };
    assert!(refused(&tasks(), &no_batch).contains("batches of 0"));
    assert!(refused(&with_answer(" yes"), &options).contains("item 3 of the task \"yes or no\" expects \" yes\""));
    assert!(refused(&with_answer("a\nb"), &options).contains("contains the stop string"));

    let failed = evaluate(&mut Broken { fails: true }, &tasks(), &options, |_, _| ()).unwrap_err();
    assert_eq!(failed.to_string(), "items 0 to 31 of the task \"digits\" could not be completed");
    assert_eq!(std::error::Error::source(&failed).unwrap().to_string(), "out of blocks");
    let short = evaluate(&mut Broken { fails: false }, &tasks(), &options, |_, _| ()).unwrap_err();
    assert!(matches!(short, EvalError::WrongCount { prompts: 32, completions: 31, .. }));
}
