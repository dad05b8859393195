//! What one request does to the others when something goes wrong with it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::{Engine, Event, Handle, Limits, Mtp, Request, Sink};
use model::{CacheKind, Model};

use crate::support::{Answer, add, ask_alone, client, ctx, ids, new_model, request};

/// Rows that a layer with routers has run over.
fn rows(model: &Model) -> u64 {
    let load = model.served_expert_load().into_iter().flatten().next().unwrap();
    load.iter().sum::<u64>() / model.config.num_experts_per_tok as u64
}

/// An answer that made room is run over again in parts, and those beside it go on meanwhile.
#[test]
fn no_step_is_longer_than_another() {
    let (ctx, model) = (ctx(), new_model(CacheKind::Bf16));
    let cache_bytes = 9 * model.cache_block_bytes() as u64;
    let limits = Limits { prefill_tokens: 16, cache_bytes, mtp: Mtp::Off, max_batch_size: 3, ..Limits::default() };
    let mut engine = Engine::new(&ctx, &model, limits);
    let requests: Vec<Request> = (0..3).map(|i| request(ids(10, i), 250)).collect();
    let answers: Vec<Answer> = requests.iter().map(|request| add(&mut engine, request)).collect();
    let mut said = 0;
    while !engine.is_idle() {
        let before = rows(&model);
        engine.step();
        assert!(rows(&model) - before <= 16 + 3, "{:?}", engine.stats());
        let new = answers[0].so_far().len();
        assert_eq!(new, usize::from(said < 250), "the one that came first gets a token in each step");
        said += new;
    }
    assert!(engine.stats().preemptions > 0);
    for (request, answer) in requests.iter().zip(&answers).skip(1) {
        assert!(answer.all().0 == ask_alone(&model, request));
    }
}

/// Fails at whatever it is told.
struct Broken;

impl Sink for Broken {
    fn send(&mut self, _: Event) {
        panic!("nobody can be told anything");
    }

    fn is_closed(&self) -> bool {
        false
    }
}

#[test]
fn whoever_panics_harms_himself_alone() {
    let model = Arc::new(new_model(CacheKind::Bf16));
    let handle = Handle::start(ctx(), model.clone(), Limits::default()).unwrap();
    let good = request(ids(10, 1), 5);
    let want = ask_alone(&model, &good);
    // One is refused when it is added, and the other is told that its prompt was read.
    let (wrong, right) = (Request { prompt: Vec::new(), ..good.clone() }, good.clone());
    for (faults, broken) in [(1, wrong), (2, right)] {
        handle.submit(broken, Box::new(Broken)).unwrap();
        let end = Instant::now() + Duration::from_mins(1);
        while handle.health().faults < faults {
            assert!(Instant::now() < end, "it was told nothing");
            std::thread::yield_now();
        }
        let (sink, answer) = client();
        handle.submit(good.clone(), sink).unwrap();
        let (drawn, end) = answer.all();
        assert!(drawn == want && end.is_ok());
        assert!(handle.health().is_alive);
        assert_eq!(handle.stats().waiting, 0);
    }
}
