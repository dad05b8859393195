//! A small model, requests to it and their answers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use config::presets;
use engine::{Drawn, End, Engine, Error, Event, Limits, Request, Sink};
use model::{CacheKind, Model, Precision};
use serde_json::json;
use tensor::{Ctx, Rng};

/// In bf16, where prefill and decode differ in their roundings, so that nothing is equal by luck. With so few tokens,
/// proposals of untrained weights are right often enough.
pub(crate) fn new_model(kind: CacheKind) -> Model {
    let changes = json!({ "max_position_embeddings": 640, "vocab_size": 8 });
    let config = presets::preset("tiny").unwrap().with_overrides(changes.as_object().unwrap()).unwrap();
    let mut model = Model::random(&config, 0.15, 4).with_precision(Precision::Bf16);
    model.cache_kind = kind;
    model
}

pub(crate) fn model() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| new_model(CacheKind::Bf16))
}

pub(crate) fn ctx() -> Ctx {
    Ctx::new(2).unwrap()
}

/// Token ids, others for each stream.
pub(crate) fn ids(n: usize, stream: u64) -> Vec<u32> {
    let mut rng = Rng::new(3, "prompt", stream);
    (0..n).map(|_| rng.below(model().config.vocab_size as u64) as u32).collect()
}

/// A request that draws, with what it reports.
pub(crate) fn request(prompt: Vec<u32>, max_tokens: usize) -> Request {
    Request { seed: 7, logprobs: Some(2), ..Request::new(prompt, max_tokens) }
}

struct Outlet {
    to: Sender<Event>,
    is_closed: Arc<AtomicBool>,
}

impl Sink for Outlet {
    fn send(&mut self, event: Event) {
        // Whoever closed it hears nothing more.
        let _ = self.to.send(event);
    }

    fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }
}

/// The other end of a request.
pub(crate) struct Answer {
    events: Receiver<Event>,
    is_closed: Arc<AtomicBool>,
}

pub(crate) fn client() -> (Box<dyn Sink>, Answer) {
    let (to, events) = channel();
    let is_closed = Arc::new(AtomicBool::new(false));
    (Box::new(Outlet { to, is_closed: is_closed.clone() }), Answer { events, is_closed })
}

impl Answer {
    /// What came until the end, which must come.
    pub(crate) fn all(&self) -> (Vec<Drawn>, Result<End, Error>) {
        let mut drawn = Vec::new();
        loop {
            let event = self.events.recv_timeout(Duration::from_mins(1)).expect("an answer ends");
            if let Event::End(end) = event {
                return (drawn, end);
            }
            if let Event::Token(token) = event {
                drawn.push(token);
            }
        }
    }

    /// Tokens that have come since.
    pub(crate) fn so_far(&self) -> Vec<Drawn> {
        let token = |event| if let Event::Token(drawn) = event { Some(drawn) } else { None };
        self.events.try_iter().filter_map(token).collect()
    }

    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
    }
}

/// Adds a request.
pub(crate) fn add(engine: &mut Engine<'_>, request: &Request) -> Answer {
    let (sink, answer) = client();
    engine.add(request.clone(), sink);
    answer
}

/// Answers to requests that are made together.
pub(crate) fn ask_all(engine: &mut Engine<'_>, requests: &[Request]) -> Vec<(Vec<Drawn>, End)> {
    let answers: Vec<Answer> = requests.iter().map(|request| add(engine, request)).collect();
    while !engine.is_idle() {
        engine.step();
        let stats = engine.stats();
        assert!(stats.blocks_used <= stats.blocks, "{stats:?}");
    }
    let ended = |(drawn, end): (Vec<Drawn>, Result<End, Error>)| (drawn, end.unwrap());
    answers.iter().map(|answer| ended(answer.all())).collect()
}

pub(crate) fn ask(engine: &mut Engine<'_>, request: &Request) -> (Vec<Drawn>, End) {
    ask_all(engine, std::slice::from_ref(request)).remove(0)
}

/// The answer of an engine that does nothing else and knows nothing.
pub(crate) fn ask_alone(model: &Model, request: &Request) -> Vec<Drawn> {
    ask(&mut Engine::new(&ctx(), model, Limits::default()), request).0
}
