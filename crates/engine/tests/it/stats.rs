//! What an engine tells about itself.

use engine::{Engine, Limits, Mtp, Request, balancedness};
use model::CacheKind;

use crate::support::{ask, ask_all, ctx, ids, new_model, request};

#[test]
fn steps_say_who_shared_them_and_where_their_time_went() {
    let (ctx, model) = (ctx(), new_model(CacheKind::Bf16));
    let limits = Limits { max_batch_size: 4, mtp: Mtp::Off, ..Limits::default() };
    let mut engine = Engine::new(&ctx, &model, limits);
    let requests: Vec<Request> = (0..4).map(|i| request(ids(10, i), 20)).collect();
    ask_all(&mut engine, &requests);
    let stats = engine.stats();
    // The step that begins with a prompt draws its first token, and the last one only draws.
    assert_eq!((stats.steps, stats.step_requests), (20, 80), "{stats:?}");
    assert_eq!((stats.decode_steps, stats.decoded), (19, 76), "{stats:?}");
    assert!(stats.model_seconds > 0.0 && stats.draw_seconds > 0.0, "{stats:?}");
    assert!(stats.model_seconds + stats.draw_seconds <= stats.step_seconds, "{stats:?}");
    assert_eq!(stats.disk, None);
}

#[test]
fn experts_are_balanced_as_their_loads_are() {
    let (ctx, model) = (ctx(), new_model(CacheKind::Bf16));
    assert_eq!(balancedness(&model), [None; 4]);
    let mut engine = Engine::new(&ctx, &model, Limits { mtp: Mtp::On, ..Limits::default() });
    let (_, end) = ask(&mut engine, &request(ids(100, 1), 30));
    let (stats, loads) = (engine.stats(), model.served_expert_load());
    let k = model.config.num_experts_per_tok as u64;
    // The last token that is drawn is not run over, nor is a proposal for the time after it.
    let rows = end.usage.prompt as u64 + stats.decoded + stats.proposed;
    for (layer, (load, balance)) in loads.iter().zip(balancedness(&model)).enumerate() {
        assert_eq!(load.is_some(), layer > 0, "the first layer is dense");
        let Some(load) = load else { continue };
        let (total, largest) = (load.iter().sum::<u64>(), *load.iter().max().unwrap());
        assert!(layer == 3 || total == k * rows, "layer {layer}: {load:?} for {rows} rows");
        assert_eq!(balance, Some(total as f64 / load.len() as f64 / largest as f64));
        assert!(largest < total, "layer {layer}: {load:?}");
    }
}
