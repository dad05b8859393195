//! A request that nobody wants any more gives its place and its memory back.

use engine::{Engine, Limits, Mtp, Stats};

use crate::support::{add, ask_alone, ctx, ids, model, request};

#[test]
fn wherever_a_request_is() {
    // In the middle of its prompt, in its answer, and while it waits.
    for (prompt, steps, what) in [(600, 3, "prompt"), (20, 10, "answer"), (20, 0, "queue")] {
        for mtp in [Mtp::Off, Mtp::On] {
            let ctx = ctx();
            let limits = Limits { prefill_tokens: 32, mtp, ..Limits::default() };
            let mut engine = Engine::new(&ctx, model(), limits);
            let other = request(ids(30, 1), 25);
            let kept = add(&mut engine, &other);
            engine.step();
            let before = engine.stats();
            let gone = add(&mut engine, &request(ids(prompt, 2), 100));
            for _ in 0..steps {
                engine.step();
            }
            let during = engine.stats();
            assert_eq!(during.running, if steps == 0 { 1 } else { 2 }, "{what}");
            assert!(steps == 0 || during.blocks_in_use > before.blocks_in_use, "{what}");
            assert_eq!(gone.so_far().is_empty(), what != "answer", "{what}");
            gone.close();
            engine.step();
            engine.step();
            let Stats { running, waiting, blocks_in_use, cancelled, .. } = engine.stats();
            assert_eq!((running, waiting, cancelled), (1, 0, 1), "{what}, MTP {mtp:?}");
            assert_eq!(blocks_in_use, before.blocks_in_use, "{what}, MTP {mtp:?}");
            assert!(gone.so_far().is_empty(), "{what}: nothing comes after it was closed");
            while !engine.is_idle() {
                engine.step();
            }
            assert_eq!(engine.stats().blocks_in_use, 0);
            assert!(kept.all().0 == ask_alone(model(), &other), "{what}, MTP {mtp:?}");
        }
    }
}

#[test]
fn its_place_is_for_the_next() {
    let ctx = ctx();
    let limits = Limits { max_batch_size: 1, prefill_tokens: 32, ..Limits::default() };
    let mut engine = Engine::new(&ctx, model(), limits);
    let gone = add(&mut engine, &request(ids(600, 2), 100));
    engine.step();
    let next = add(&mut engine, &request(ids(5, 1), 3));
    engine.step();
    assert_eq!((engine.stats().running, engine.stats().waiting), (1, 1));
    gone.close();
    engine.step();
    engine.step();
    assert!(!next.so_far().is_empty());
}
