//! What part of a step is the engine's own: everything but the model, the draws and what they hand on.
//!
//! ```text
//! cargo run --release -p engine --example overhead -- [PRESET] [REQUESTS] [TOKENS] [THREADS]
//! ```
//!
//! The model has random weights of the preset; the time that it takes does not depend on their values.

use config::presets;
use engine::{Engine, Event, Limits, Mtp, Request, Sink, Stats};
use model::{Model, Precision};
use tensor::Ctx;

/// Nobody listens.
struct Silence;

impl Sink for Silence {
    fn send(&mut self, _: Event) {}

    fn is_closed(&self) -> bool {
        false
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_else(|| "small".into());
    let mut number = |default: usize| args.next().map_or(Ok(default), |text| text.parse());
    let (requests, tokens, threads) = (number(8)?, number(256)?, number(0)?);
    let config = presets::preset(&name)?;
    let model = Model::random(&config, 0.02, 1).with_precision(Precision::Bf16);
    let ctx = Ctx::new(threads)?;

    println!("{name}, {requests} answers of {tokens} tokens, {} threads", ctx.threads());
    println!("MTP   steps   ms a step   model %   draw %   engine %   engine µs a step");
    for mtp in [Mtp::Off, Mtp::On] {
        let limits = Limits { max_batch_size: requests, mtp, ..Limits::default() };
        let mut engine = Engine::new(&ctx, &model, limits);
        for seed in 0..requests as u64 {
            let prompt = (0..32).map(|i| (i + seed as u32) % config.vocab_size as u32).collect();
            engine.add(Request { seed, ..Request::new(prompt, tokens) }, Box::new(Silence));
        }
        // Prompts are over when all answers have begun; what is measured is decoding, with all of them in each step.
        while engine.stats().answer_tokens < requests as u64 {
            engine.step();
        }
        let before = engine.stats();
        while !engine.is_idle() && engine.stats().running == requests {
            engine.step();
        }
        let now = engine.stats();
        let of = |field: fn(&Stats) -> f64| field(&now) - field(&before);
        let (steps, seconds) = (of(|s| s.steps as f64), of(|s| s.step_seconds));
        let (model, draw) = (of(|s| s.model_seconds), of(|s| s.draw_seconds));
        let own = seconds - model - draw;
        println!(
            "{:3}   {steps:5}   {:9.3}   {:7.2}   {:6.2}   {:8.2}   {:16.1}",
            if mtp == Mtp::On { "on" } else { "off" },
            1e3 * seconds / steps,
            1e2 * model / seconds,
            1e2 * draw / seconds,
            1e2 * own / seconds,
            1e6 * own / steps,
        );
    }
    Ok(())
}
