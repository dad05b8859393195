//! An answer depends on its request alone: the same tokens and the same log-probabilities, bit for bit, however they are
//! made.

use std::sync::Arc;

use engine::{DiskCache, DiskOptions, Drawn, End, Engine, Handle, Limits, Mtp, Request, Sampling};
use model::{CacheKind, Model};
use tensor::{Ctx, Level};

use crate::support::{add, ask, ask_all, client, ctx, ids, model, new_model, request};

/// Whole blocks of the prompt, and its length.
const BLOCKS: usize = 3;
const PROMPT: usize = 64 * BLOCKS + 9;

fn greedy() -> Request {
    let sampling = Sampling { temperature: 0.0, repetition_penalty: 1.2, ..Sampling::default() };
    Request { sampling, ..request(ids(PROMPT, 1), 70) }
}

fn sampled() -> Request {
    let sampling = Sampling {
        temperature: 0.9,
        top_k: 7,
        top_p: 0.95,
        min_p: 0.02,
        frequency_penalty: 0.2,
        presence_penalty: -0.1,
        ..Sampling::default()
    };
    Request { sampling, logit_bias: vec![(3, 0.5), (5, -0.5)], ..request(ids(PROMPT, 1), 70) }
}

/// Others with all kinds of lengths, some of which begin as the request does.
fn others(n: u64) -> Vec<Request> {
    let other = |i: u64| {
        let own = ids(1 + (i as usize * 37) % 150, 100 + i);
        let prompt = if i.is_multiple_of(3) { [ids(PROMPT - 5 * i as usize, 1), own].concat() } else { own };
        Request { seed: i, ..request(prompt, 20 + 5 * i as usize) }
    };
    (0..n).map(other).collect()
}

/// The answer of an engine with these limits that knows nothing.
fn fresh(ctx: &Ctx, limits: Limits, request: &Request) -> (Vec<Drawn>, End) {
    ask(&mut Engine::new(ctx, model(), limits), request)
}

fn beside(limits: Limits, others: Vec<Request>, request: &Request) -> (Vec<Drawn>, End) {
    let ctx = ctx();
    let mut engine = Engine::new(&ctx, model(), limits);
    let all = [others, vec![request.clone()]].concat();
    let answer = ask_all(&mut engine, &all).pop().unwrap();
    if limits.mtp == Mtp::On {
        let stats = engine.stats();
        assert!(stats.accepted > 0 && stats.proposed > stats.accepted, "{stats:?}");
    }
    answer
}

/// An engine that was asked the same before, or, if a request of other length was asked, a part of it.
fn known(limits: Limits, before: usize, request: &Request) -> (Vec<Drawn>, End) {
    let ctx = ctx();
    let mut engine = Engine::new(&ctx, model(), limits);
    ask(&mut engine, &Request { prompt: request.prompt[..before].to_vec(), ..request.clone() });
    ask(&mut engine, request)
}

/// An engine that finds `before` tokens of the prompt on disk, where another one left them.
fn restarted(model: &Model, limits: Limits, before: usize, request: &Request) -> (Vec<Drawn>, End) {
    let (ctx, dir) = (ctx(), tempfile::tempdir().unwrap());
    let open = || {
        let options = DiskOptions { min_prompt_tokens: 0, ..DiskOptions::new(dir.path(), 1 << 30, [1; 32]) };
        Arc::new(DiskCache::open(options, model).unwrap())
    };
    let prefix = Request { prompt: request.prompt[..before].to_vec(), ..request.clone() };
    ask(&mut Engine::new(&ctx, model, limits).with_disk(open()), &prefix);
    let mut engine = Engine::new(&ctx, model, limits).with_disk(open());
    let answer = ask(&mut engine, request);
    let disk = engine.stats().disk.unwrap();
    assert_eq!((disk.hits as usize, disk.damaged), (before / 64, 0));
    answer
}

#[test]
fn however_it_is_made() {
    let (off, on) = (Mtp::Off, Mtp::On);
    let limits = |mtp| Limits { mtp, ..Limits::default() };
    for request in [greedy(), sampled()] {
        let (want, end) = fresh(&Ctx::new(1).unwrap(), limits(off), &request);
        assert_eq!((want.len(), end.usage.cached), (request.max_tokens, 0));
        let name = if request.sampling.temperature == 0.0 { "greedy" } else { "sampled" };
        let check = |way: &str, mtp: Mtp, (drawn, end): (Vec<Drawn>, End), cached: usize| {
            assert!(drawn == want, "{name}, {way}, MTP {mtp:?}");
            assert_eq!(end.usage.cached, cached, "{name}, {way}, MTP {mtp:?}");
        };
        for mtp in [off, on] {
            for threads in [1, 2, 5] {
                check("threads", mtp, fresh(&Ctx::new(threads).unwrap(), limits(mtp), &request), 0);
            }
            check("plain kernels", mtp, fresh(&ctx().at_most(Level::Portable), limits(mtp), &request), 0);
            let parts = Limits { prefill_tokens: 7, ..limits(mtp) };
            check("a prompt in parts", mtp, fresh(&ctx(), parts, &request), 0);
            // Those before it have the same beginning.
            let (drawn, end) = beside(Limits { max_batch_size: 32, ..limits(mtp) }, others(31), &request);
            assert!(end.usage.cached > 0);
            check("a batch of 32", mtp, (drawn, end), end.usage.cached);
            check("a known prompt", mtp, known(limits(mtp), PROMPT, &request), 64 * BLOCKS);
            check("a half known prompt", mtp, known(limits(mtp), 100, &request), 64);
            check("a restart", mtp, restarted(model(), limits(mtp), PROMPT, &request), 64 * BLOCKS);
            check("half of it after a restart", mtp, restarted(model(), limits(mtp), 150, &request), 128);

            // The last one makes room when the answers of the others grow beyond their first blocks.
            let of_draft = if mtp == on { model().new_draft().unwrap().block_bytes() } else { 0 };
            let cache_bytes = 12 * (model().cache_block_bytes() + of_draft) as u64;
            let long: Vec<_> = (0..4).map(|i| crate::support::request(ids(10, 50 + i), 180)).collect();
            for prefill_tokens in [limits(mtp).prefill_tokens, 7] {
                let (drawn, end) =
                    beside(Limits { cache_bytes, prefill_tokens, ..limits(mtp) }, long.clone(), &request);
                assert!(end.usage.preemptions > 0, "{name}, MTP {mtp:?}");
                check("little room", mtp, (drawn, end), 0);
            }
        }
    }
}

#[test]
fn whatever_its_cache_is_made_of() {
    for kind in [CacheKind::F32, CacheKind::Bf16, CacheKind::Fp8] {
        let model = new_model(kind);
        for request in [greedy(), sampled()] {
            let want = crate::support::ask_alone(&model, &request);
            let (got, end) = restarted(&model, Limits::default(), PROMPT, &request);
            assert!(got == want, "{kind:?}");
            assert_eq!(end.usage.cached, 64 * BLOCKS);
        }
    }
}

#[test]
fn on_a_thread_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let model = Arc::new(new_model(CacheKind::Bf16));
    let wants = [greedy(), sampled()].map(|request| fresh(&ctx(), Limits::default(), &request).0);
    for run in 0..2 {
        let options = DiskOptions { min_prompt_tokens: 0, ..DiskOptions::new(dir.path(), 1 << 30, [1; 32]) };
        let disk = Arc::new(DiskCache::open(options, &model).unwrap());
        let handle = Handle::start_with(ctx(), model.clone(), Limits::default(), Some(disk)).unwrap();
        for (request, want) in [greedy(), sampled()].into_iter().zip(&wants) {
            let (sink, answer) = client();
            handle.submit(request, sink).unwrap();
            let (drawn, end) = answer.all();
            assert!(drawn == *want, "run {run}");
            assert!(run == 0 || end.unwrap().usage.cached == 64 * BLOCKS);
        }
    }
}

#[test]
fn what_is_beside_it_may_go() {
    let ctx = ctx();
    let mut engine = Engine::new(&ctx, model(), Limits { mtp: Mtp::On, ..Limits::default() });
    let beside: Vec<_> = others(6).iter().map(|other| add(&mut engine, other)).collect();
    let ours = add(&mut engine, &sampled());
    for other in &beside {
        engine.step();
        other.close();
    }
    while !engine.is_idle() {
        engine.step();
    }
    assert!(ours.all().0 == fresh(&ctx, Limits::default(), &sampled()).0);
}
