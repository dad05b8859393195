//! What must not change an answer: who is beside it, what is known of its prompt, how much room there is, how prompts are
//! cut, threads. And what must end a request.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use config::presets;
use engine::{
    Allowed, Constraint, ConstraintError, Constraints, Drawn, End, Engine, Error, Event, Finish, Handle, Limits,
    Logprobs, Mtp, Refused, Request, Sampling, Sink, Stats, TokenSet,
};
use model::{BLOCK_TOKENS, CacheKind, Model, Precision};
use serde_json::json;
use tensor::{Ctx, Rng};

/// A small model in bf16, whose prefill and decode differ in their roundings, so that nothing is equal by luck.
fn model() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| {
        let mut model = model_again().with_precision(Precision::Bf16);
        model.cache_kind = CacheKind::Bf16;
        model
    })
}

fn ctx() -> Ctx {
    Ctx::new(2).unwrap()
}

struct Client {
    to: Sender<Event>,
    is_closed: Arc<AtomicBool>,
}

impl Sink for Client {
    fn send(&mut self, event: Event) {
        drop(self.to.send(event));
    }

    fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }
}

/// The other end of a request.
struct Answer {
    events: Receiver<Event>,
    is_closed: Arc<AtomicBool>,
}

fn client() -> (Box<dyn Sink>, Answer) {
    let (to, events) = channel();
    let is_closed = Arc::new(AtomicBool::new(false));
    (Box::new(Client { to, is_closed: is_closed.clone() }), Answer { events, is_closed })
}

impl Answer {
    fn all(&self) -> (Vec<Drawn>, Result<End, Error>) {
        let mut drawn = Vec::new();
        loop {
            match self.events.recv_timeout(Duration::from_mins(1)).expect("an answer ends") {
                Event::Prompt { done, total, .. } => assert!(done <= total && drawn.is_empty()),
                Event::PromptLogprobs { .. } => assert!(drawn.is_empty()),
                Event::Token(token) => drawn.push(token),
                Event::End(end) => return (drawn, end),
            }
        }
    }
}

fn ids(n: usize, stream: u64) -> Vec<u32> {
    let mut rng = Rng::new(3, "prompt", stream);
    (0..n).map(|_| rng.below(model().config.vocab_size as u64) as u32).collect()
}

/// Even and odd tokens take turns; there may be so many.
struct Turns {
    next: TokenSet,
    left: usize,
}

fn turns(left: usize) -> Constraints {
    Constraints::new(move || Box::new(Turns { next: (0..8).collect(), left }))
}

impl Constraint for Turns {
    fn next(&mut self) -> Result<Allowed<'_>, ConstraintError> {
        if self.left == 0 {
            Err("nothing is left".into())
        } else {
            Ok(Allowed { tokens: Some(&self.next), end: false })
        }
    }

    fn push(&mut self, id: u32) -> Result<(), ConstraintError> {
        assert!(self.next.contains(id));
        self.next = (0..8).filter(|other| other % 2 != id % 2).collect();
        self.left -= 1;
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.left == 0
    }
}

/// Prompts of many lengths, some of which begin alike; half of the answers are greedy, and some are constrained.
fn requests() -> Vec<Request> {
    let stem = ids(3 * BLOCK_TOKENS, 0);
    let lengths = [1, 5, 63, 64, 65, 100, 128, 129, 150, 200];
    let own = lengths.iter().zip(1..).map(|(&n, i)| ids(n, i));
    let alike = [0, 1, 2, 70].iter().zip(50..).map(|(&n, i)| [stem.clone(), ids(n, i)].concat());
    own.chain(alike)
        .zip(0..)
        .map(|(prompt, i)| {
            let temperature = if i % 2 == 0 { 0.0 } else { 0.8 };
            Request {
                sampling: Sampling { temperature, top_p: 0.95, frequency_penalty: 0.3, ..Sampling::default() },
                seed: i,
                logprobs: Some(2),
                constraint: (i % 3 == 0).then(|| turns(1000)),
                ..Request::new(prompt, 20 + 9 * i as usize)
            }
        })
        .collect()
}

fn answers(engine: &mut Engine<'_>, requests: &[Request]) -> Vec<(Vec<Drawn>, End)> {
    let clients: Vec<Answer> = requests
        .iter()
        .map(|request| {
            let (sink, answer) = client();
            engine.add(request.clone(), sink);
            answer
        })
        .collect();
    while !engine.is_idle() {
        engine.step();
        let Stats { blocks_used, blocks, .. } = engine.stats();
        assert!(blocks_used <= blocks, "{blocks_used} of {blocks} blocks");
    }
    let ended = |(drawn, end): (Vec<Drawn>, Result<End, Error>)| (drawn, end.unwrap());
    clients.iter().map(|answer| ended(answer.all())).collect()
}

fn drawn(answers: Vec<(Vec<Drawn>, End)>) -> Vec<Vec<Drawn>> {
    answers.into_iter().map(|(drawn, _)| drawn).collect()
}

#[test]
fn an_answer_depends_on_its_request_alone() {
    let (ctx, requests) = (ctx(), requests());
    let alone = |request: &Request| {
        let mut engine = Engine::new(&ctx, model(), Limits::default());
        drawn(answers(&mut engine, std::slice::from_ref(request))).remove(0)
    };
    let want: Vec<Vec<Drawn>> = requests.iter().map(alone).collect();
    assert!(want.iter().zip(&requests).all(|(drawn, request)| drawn.len() == request.max_tokens));
    assert!(want.iter().flatten().all(|drawn| drawn.logprobs.as_ref().is_some_and(|l| l.top.len() == 2)));

    for (drawn, request) in want.iter().zip(&requests).filter(|(_, request)| request.constraint.is_some()) {
        assert!(drawn.windows(2).all(|pair| pair[0].id % 2 != pair[1].id % 2), "seed {}", request.seed);
    }

    let one = Ctx::new(1).unwrap();
    let block = (model().cache_block_bytes() + model().new_draft().unwrap().block_bytes()) as u64;
    let limits = Limits::default();
    let cases = [
        ("all at once", &ctx, limits),
        ("one thread", &one, limits),
        ("small parts", &ctx, Limits { prefill_tokens: 7, max_batch_size: 5, ..limits }),
        ("one at a time", &ctx, Limits { max_batch_size: 1, ..limits }),
        ("proposals", &ctx, Limits { mtp: Mtp::On, ..limits }),
        ("no proposals", &ctx, Limits { mtp: Mtp::Off, ..limits }),
        // The longest needs 7 blocks.
        ("little room", &ctx, Limits { cache_bytes: 8 * block, prefill_tokens: 50, ..limits }),
    ];
    for (name, ctx, limits) in cases {
        let mut engine = Engine::new(ctx, model(), limits);
        for round in 0..2 {
            let got = drawn(answers(&mut engine, &requests));
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                assert!(got == want, "{name}, round {round}, request {i}");
            }
            let stats = engine.stats();
            assert_eq!((stats.running, stats.waiting, stats.blocks_in_use), (0, 0, 0), "{name}");
            assert!(stats.blocks_used <= stats.blocks, "{name}: {stats:?}");
        }
        let stats = engine.stats();
        assert!(stats.cached_tokens > 0, "{name}: the second round knows the beginnings of the first");
        let made_room = stats.preemptions > 0 && stats.evicted_blocks > 0;
        assert_eq!(made_room, name == "little room", "{name}: {stats:?}");
        let (wrong, right) = (stats.proposed - stats.accepted, stats.accepted);
        match limits.mtp {
            Mtp::On => assert!(wrong > 50 && right > 50, "{name}: {stats:?}"),
            Mtp::Off => assert_eq!((wrong, right), (0, 0), "{name}"),
            // How often depends on the time that steps take.
            Mtp::Auto => assert!(wrong > 0 && right > 0, "{name}: {stats:?}"),
        }
    }
}

#[test]
fn a_known_prompt_is_run_over_but_for_its_last_block() {
    let ctx = ctx();
    let mut engine = Engine::new(&ctx, model(), Limits::default());
    let request = Request::new(ids(200, 1), 1);
    let cached = |engine: &mut Engine<'_>, request: &Request| {
        answers(engine, std::slice::from_ref(request)).remove(0).1.usage.cached
    };
    assert_eq!(cached(&mut engine, &request), 0);
    assert_eq!(cached(&mut engine, &request), 192);
    let salted = Request { salt: 1, ..request.clone() };
    assert_eq!(cached(&mut engine, &salted), 0, "another salt");
    let whole = Request::new(request.prompt[..192].to_vec(), 1);
    assert_eq!(cached(&mut engine, &whole), 128, "the last token's logits are wanted");
}

/// Requests that come together with the same prompt, as the answers of one with `n` do, are no reason to run over it more than
/// once, though prompts of a step are run over together.
#[test]
fn a_prompt_that_several_bring_is_run_over_once() {
    let ctx = ctx();
    for prefill_tokens in [50, 512] {
        let mut engine = Engine::new(&ctx, model(), Limits { prefill_tokens, ..Limits::default() });
        let other = Request::new(ids(100, 2), 1);
        let same = Request::new(ids(200, 1), 1);
        let ends = answers(&mut engine, &[other, same.clone(), same.clone(), same]);
        let cached: Vec<usize> = ends.iter().map(|(_, end)| end.usage.cached).collect();
        assert_eq!(cached, [0, 0, 192, 192], "{prefill_tokens} tokens a step");
        assert_eq!(engine.stats().prompt_tokens, 100 + 200 + 8 + 8);
    }
}

#[test]
fn an_answer_ends_for_its_own_reason() {
    let ctx = ctx();
    let mut engine = Engine::new(&ctx, model(), Limits::default());
    let limit = model().config.max_position_embeddings;
    let greedy = |prompt: Vec<u32>, max_tokens| Request {
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        ..Request::new(prompt, max_tokens)
    };
    let request = greedy(ids(20, 1), 6);
    let tokens: Vec<u32> =
        drawn(answers(&mut engine, std::slice::from_ref(&request)))[0].iter().map(|d| d.id).collect();
    let last = *tokens.last().unwrap();
    let first = tokens.iter().position(|&id| id == last).unwrap();
    let stopped = Request { stop: vec![last], ..request.clone() };
    let late = Request { min_tokens: 5, max_tokens: 5, ..stopped.clone() };
    let constrained = |left| Request { constraint: Some(turns(left)), ..request.clone() };
    let cases = [
        (constrained(4), Finish::Stop, 4),
        (constrained(6), Finish::Stop, 6),
        (constrained(7), Finish::Length, 6),
        (constrained(0), Finish::Stop, 0),
        (request, Finish::Length, 6),
        (stopped, Finish::Stop, first),
        (late, Finish::Length, 5),
        (greedy(ids(20, 1), 0), Finish::Length, 0),
        (greedy(ids(limit - 2, 2), 9), Finish::Context, 3),
    ];
    for (request, finish, n) in cases {
        let (drawn, end) = answers(&mut engine, std::slice::from_ref(&request)).remove(0);
        assert_eq!((end.finish, drawn.len(), end.usage.answer), (finish, n, n));
        assert_eq!(end.usage.prompt, request.prompt.len());
    }
}

#[test]
fn what_cannot_be_answered_is_refused_at_once() {
    let ctx = ctx();
    let cache_bytes = 2 * model().cache_block_bytes() as u64;
    let limits = Limits { cache_bytes, mtp: Mtp::Off, ..Limits::default() };
    let mut engine = Engine::new(&ctx, model(), limits);
    let vocab = model().config.vocab_size as u32;
    let wild = Request { sampling: Sampling { top_p: 7.0, ..Sampling::default() }, ..Request::new(vec![1], 1) };
    let biased = Request { logit_bias: vec![(1, f32::NAN)], ..Request::new(vec![1], 1) };
    let least = Request { min_tokens: 2, ..Request::new(vec![1], 1) };
    let many = Request { prompt_logprobs: Some(21), ..Request::new(vec![1], 1) };
    for (request, want) in [
        (Request::new(vec![], 1), "no tokens"),
        (Request::new(vec![vocab], 1), "vocab_size"),
        (Request::new(vec![1; 100], 29), "129 tokens do not fit the cache, which holds 128"),
        (wild, "top_p"),
        (biased, "logit_bias"),
        (least, "min_tokens is 2, but may be at most 1"),
        (many, "prompt_logprobs is 21, but may be at most 20"),
    ] {
        let (sink, answer) = client();
        engine.add(request, sink);
        let error = answer.all().1.unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
    assert!(engine.is_idle());
    assert_eq!(answers(&mut engine, &[Request::new(vec![1; 100], 28)])[0].0.len(), 28);
}

#[test]
fn a_request_that_nobody_wants_is_gone_before_the_next_step() {
    let ctx = ctx();
    let limits = Limits { max_batch_size: 2, prefill_tokens: 50, ..Limits::default() };
    let mut engine = Engine::new(&ctx, model(), limits);
    let mut clients = Vec::new();
    for (length, stream) in [(20, 1), (200, 2), (30, 3)] {
        let (sink, answer) = client();
        engine.add(Request::new(ids(length, stream), 100), sink);
        clients.push(answer);
    }
    engine.step();
    let Stats { running, waiting, .. } = engine.stats();
    assert_eq!((running, waiting), (2, 1), "one answers, one is in its prompt, one waits");
    for client in &clients {
        client.is_closed.store(true, Ordering::Relaxed);
    }
    engine.step();
    let Stats { running, waiting, blocks_in_use, cancelled, .. } = engine.stats();
    assert_eq!((running, waiting, blocks_in_use, cancelled), (0, 0, 0, 3));
}

/// The log-probabilities of a request's prompt, and where each event begins.
fn scores(engine: &mut Engine<'_>, request: &Request) -> (Vec<Logprobs>, Vec<usize>, End) {
    let (sink, answer) = client();
    engine.add(request.clone(), sink);
    while !engine.is_idle() {
        engine.step();
    }
    let (mut all, mut firsts, mut tokens) = (Vec::new(), Vec::new(), 0);
    for event in answer.events.try_iter() {
        match event {
            Event::PromptLogprobs { first, logprobs } => {
                assert_eq!((first, tokens), (all.len() + 1, 0));
                firsts.push(first);
                all.extend(logprobs);
            }
            Event::Token(_) => tokens += 1,
            Event::Prompt { .. } => {}
            Event::End(end) => {
                let end = end.unwrap();
                assert_eq!(tokens, end.usage.answer);
                return (all, firsts, end);
            }
        }
    }
    unreachable!("an answer ends")
}

#[test]
fn a_prompt_is_scored_as_its_tokens_would_have_been_drawn() {
    let ctx = ctx();
    let prompt = ids(150, 1);
    let request = Request { prompt_logprobs: Some(3), ..Request::new(prompt.clone(), 0) };
    let mut engine = Engine::new(&ctx, model(), Limits::default());
    let (want, firsts, end) = scores(&mut engine, &request);
    assert_eq!((want.len(), firsts, end.finish), (149, vec![1], Finish::Length));
    assert!(want.iter().all(|logprobs| logprobs.top.len() == 3));

    // The same bits as those of the token when it is drawn, which a bias sees to.
    for at in [1, 2, 63, 64, 65, 128, 149] {
        let force = Request {
            sampling: Sampling { temperature: 0.0, ..Sampling::default() },
            logit_bias: vec![(prompt[at], 1e6)],
            logprobs: Some(3),
            ..Request::new(prompt[..at].to_vec(), 1)
        };
        let drawn = drawn(answers(&mut engine, &[force])).remove(0);
        assert_eq!((drawn[0].id, drawn[0].logprobs.as_ref()), (prompt[at], Some(&want[at - 1])), "position {at}");
    }

    // The log-softmax of one forward pass. It sums in another order, in bf16: 2^-8 of logits below 2.
    let logits = model().trace(&ctx, &prompt, false).logits;
    for (at, found) in (1..).zip(&want) {
        let row = logits.row(at - 1);
        let total: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
        let of = |id: u32| f64::from(row[id as usize]) - total.ln();
        let difference = (of(prompt[at]) - f64::from(found.of_token)).abs();
        assert!(difference < 0.02, "position {at}: {difference}");
    }

    // However it is cut, whoever is known, whatever comes after it.
    let block = (model().cache_block_bytes() + model().new_draft().unwrap().block_bytes()) as u64;
    for limits in [
        Limits { prefill_tokens: 7, ..Limits::default() },
        Limits { prefill_tokens: 64, mtp: Mtp::Off, ..Limits::default() },
        Limits { cache_bytes: 4 * block, ..Limits::default() },
    ] {
        let mut engine = Engine::new(&ctx, model(), limits);
        let plain = answers(&mut engine, &[Request::new(prompt.clone(), 30)]).remove(0);
        let (found, _, end) = scores(&mut engine, &Request { max_tokens: 30, ..request.clone() });
        assert!(found == want, "{limits:?}");
        assert_eq!((end.usage.answer, end.usage.cached), (30, 0));
        assert_eq!(answers(&mut engine, &[Request::new(prompt.clone(), 30)]).remove(0).0, plain.0, "{limits:?}");
        assert_eq!(engine.stats().cached_tokens, 128, "it gives what it has computed");
    }
}

#[test]
fn a_prompt_that_makes_room_is_scored_once() {
    let ctx = ctx();
    let block = (model().cache_block_bytes() + model().new_draft().unwrap().block_bytes()) as u64;
    // The first answer takes its seventh block while the second prompt is at its middle.
    let limits = Limits { cache_bytes: 9 * block, prefill_tokens: 1, mtp: Mtp::On, ..Limits::default() };
    let scored = |i| Request { prompt_logprobs: Some(1), seed: i, ..Request::new(ids(200, i), 250) };
    let requests: Vec<Request> = (0..2).map(scored).collect();
    let want: Vec<Vec<Logprobs>> =
        requests.iter().map(|request| scores(&mut Engine::new(&ctx, model(), limits), request).0).collect();

    let mut engine = Engine::new(&ctx, model(), limits);
    let clients: Vec<Answer> = requests
        .iter()
        .map(|request| {
            let (sink, answer) = client();
            engine.add(request.clone(), sink);
            answer
        })
        .collect();
    while !engine.is_idle() {
        engine.step();
    }
    assert!(engine.stats().preemptions > 0);
    for (client, want) in clients.iter().zip(&want) {
        let mut found = Vec::new();
        for event in client.events.try_iter() {
            if let Event::PromptLogprobs { first, logprobs } = event {
                assert_eq!(first, found.len() + 1);
                found.extend(logprobs);
            }
        }
        assert!(found == *want);
    }
}

#[test]
fn decoding_goes_on_beside_a_long_prompt() {
    let ctx = ctx();
    let mut engine = Engine::new(&ctx, model(), Limits { prefill_tokens: 16, ..Limits::default() });
    let (sink, short) = client();
    engine.add(Request::new(ids(5, 1), 40), sink);
    engine.step();
    let (sink, _long) = client();
    engine.add(Request::new(ids(200, 2), 1), sink);
    short.events.try_iter().for_each(drop);
    for step in 0..10 {
        engine.step();
        assert!(matches!(short.events.try_iter().next(), Some(Event::Token(_))), "step {step}");
    }
}

#[test]
fn a_thread_answers_others_and_ends_when_it_is_told() {
    let limits = Limits { max_batch_size: 2, max_enqueued_batches: 1, ..Limits::default() };
    let handle = Handle::start(ctx(), Arc::new(model_again()), limits).unwrap();
    let (sink, answer) = client();
    handle.submit(Request::new(ids(10, 1), 5), sink).unwrap();
    assert_eq!(answer.all().0.len(), 5);

    // Long answers fill the two places, then two wait, and no more may.
    let mut clients = Vec::new();
    let refused = loop {
        let (sink, answer) = client();
        match handle.submit(Request::new(ids(10, 1), 200), sink) {
            Ok(()) => clients.push(answer),
            Err(refused) => break refused,
        }
        assert!(clients.len() < 100);
    };
    assert_eq!(refused, Refused::Requests { waiting: 2, limit: 2 });
    assert!((2..=4).contains(&clients.len()), "{}", clients.len());
    handle.drain();
    let (sink, _answer) = client();
    assert_eq!(handle.submit(Request::new(vec![1], 1), sink), Err(Refused::Draining));
    assert_eq!(clients[0].all().0.len(), 200, "what was taken goes on");
    assert_eq!(handle.health().faults, 0);
    drop(handle);
    let last = clients.last().unwrap().all().1;
    assert!(matches!(last, Err(Error::Stopped) | Ok(_)), "{last:?}");
}

/// A model of its own, for those who keep one.
fn model_again() -> Model {
    // With so few tokens, proposals of untrained weights are right often enough.
    let changes = json!({ "max_position_embeddings": 512, "vocab_size": 8 });
    let config = presets::preset("tiny").unwrap().with_overrides(changes.as_object().unwrap()).unwrap();
    Model::random(&config, 0.15, 4)
}
