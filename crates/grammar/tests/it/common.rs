//! A model without a thought, and its answers.

use std::sync::LazyLock;
use std::sync::mpsc::{Sender, channel};

use config::presets;
use engine::{Constraints, End, Engine, Event, Finish, Limits, Mtp, Request, Sink};
use grammar::{Compiled, Grammar, Grammars};
use model::Model;
use serde_json::json;
use tensor::{Ctx, Rng};
use tokenizer::Tokenizer;

/// The tiny tokenizer of the tokenizer's tests: 512 ids, of which the last 17 are control tokens.
pub(crate) static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    let file = include_bytes!("../../../tokenizer/testdata/tiny/tokenizer.json");
    Tokenizer::from_bytes(file).expect("the fixture is valid")
});

/// A random model whose table is longer than the vocabulary, as published ones are.
static MODEL: LazyLock<Model> = LazyLock::new(|| {
    let changes = json!({ "max_position_embeddings": 1024, "vocab_size": VOCAB });
    let config = presets::preset("tiny").unwrap().with_overrides(changes.as_object().unwrap()).unwrap();
    Model::random(&config, 0.15, 4)
});

const VOCAB: usize = 520;

static GRAMMARS: LazyLock<Grammars> = LazyLock::new(|| Grammars::new(&TOKENIZER, VOCAB).unwrap());

pub(crate) fn compile(grammar: &Grammar) -> Result<Compiled, grammar::Error> {
    GRAMMARS.compile(grammar)
}

/// Constraints of a grammar that is good.
pub(crate) fn constraints(grammar: &Grammar) -> Constraints {
    compile(grammar).unwrap_or_else(|error| panic!("{grammar:?}: {error}")).constraints(None)
}

/// A request that samples at temperature 1 from all rows of the model's table.
pub(crate) fn request(constraint: Constraints, seed: u64, max_tokens: usize) -> Request {
    let stop = vec![TOKENIZER.special_tokens().eos.unwrap()];
    Request { constraint: Some(constraint), seed, stop, ..Request::new(vec![0], max_tokens) }
}

struct Outlet(usize, Sender<(usize, Event)>);

impl Sink for Outlet {
    fn send(&mut self, event: Event) {
        drop(self.1.send((self.0, event)));
    }

    fn is_closed(&self) -> bool {
        false
    }
}

/// Answers requests together.
pub(crate) fn answers(requests: &[Request], mtp: Mtp) -> Vec<(Vec<u32>, Result<Finish, engine::Error>)> {
    let ctx = Ctx::new(2).unwrap();
    let mut engine = Engine::new(&ctx, &MODEL, Limits { mtp, ..Limits::default() });
    let (to, events) = channel();
    for (i, request) in requests.iter().enumerate() {
        engine.add(request.clone(), Box::new(Outlet(i, to.clone())));
    }
    while !engine.is_idle() {
        engine.step();
    }
    let mut answers: Vec<_> = requests.iter().map(|_| (Vec::new(), None)).collect();
    for (i, event) in events.try_iter() {
        match event {
            Event::Token(drawn) => answers[i].0.push(drawn.id),
            Event::End(end) => answers[i].1 = Some(end.map(|End { finish, .. }| finish)),
            Event::Prompt { .. } | Event::PromptLogprobs { .. } => {}
        }
    }
    if mtp == Mtp::On {
        assert!(engine.stats().proposed > 0);
    }
    answers.into_iter().map(|(tokens, end)| (tokens, end.expect("every answer ends"))).collect()
}

/// The texts of `n` answers that ended by themselves, and how many did not.
pub(crate) fn texts(grammar: &Grammar, n: u64, max_tokens: usize) -> (Vec<String>, usize) {
    let constraints = constraints(grammar);
    // A random model seldom ends a string.
    let quote = TOKENIZER.encode("\"")[0];
    let request = |seed| Request { logit_bias: vec![(quote, 3.0)], ..request(constraints.clone(), seed, max_tokens) };
    let requests: Vec<Request> = (0..n).map(request).collect();
    let mut texts = Vec::new();
    for (tokens, end) in answers(&requests, Mtp::Off) {
        let text = TOKENIZER.decode(&tokens, false);
        match end.unwrap_or_else(|error| panic!("{grammar:?}: {text:?}: {error}")) {
            Finish::Stop => texts.push(text),
            Finish::Length | Finish::Context => {}
        }
    }
    let unfinished = n as usize - texts.len();
    (texts, unfinished)
}

/// Draws from the allowed tokens, without a model, until the answer ends, fails or has `n` tokens.
pub(crate) fn walk(constraints: &Constraints, rng: &mut Rng, n: usize) -> Result<Vec<u32>, engine::ConstraintError> {
    let mut constraint = constraints.begin();
    let mut tokens = Vec::new();
    while tokens.len() < n && !constraint.is_complete() {
        let allowed = constraint.next()?;
        let set = allowed.tokens.expect("nothing is free");
        let ids: Vec<u32> = (0..VOCAB as u32).filter(|&id| set.contains(id)).collect();
        if ids.is_empty() {
            assert!(allowed.end);
            break;
        }
        let id = ids[rng.below(ids.len() as u64) as usize];
        constraint.push(id)?;
        tokens.push(id);
    }
    Ok(tokens)
}
