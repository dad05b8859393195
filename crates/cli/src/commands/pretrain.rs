use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use config::{Counts, Recipe};
use train::report::history::History;
use train::report::html::{HtmlReport, RunSummary};
use train::report::log::MetricsLog;
use train::report::progress::{Plan, Progress};
use train::report::tensorboard::TensorBoard;
use train::report::{Observer, Observers};
use train::{End, Run};

use super::Threads;
use crate::args::{Pretrain, Resume};
use crate::failure::INTERRUPTED;

pub(crate) fn start(args: &Pretrain, threads: Threads) -> Result<ExitCode> {
    let mut recipe = Recipe::load(&args.recipe, &args.sets)?;
    recipe.threads = threads.with(recipe.threads);
    let run = Run::create(recipe, &mut say)?;
    train(run)
}

pub(crate) fn resume(args: &Resume, threads: Threads) -> Result<ExitCode> {
    let run = Run::resume(&args.run, |recipe| threads.with(recipe), &mut say)?;
    if run.is_finished() {
        eprintln!("{} is finished: {} steps, {} tokens", args.run.display(), run.step, run.tokens);
        return Ok(ExitCode::SUCCESS);
    }
    train(run)
}

/// A line on stderr.
#[expect(clippy::needless_pass_by_value, reason = "the signature that a run calls with the lines it makes")]
pub(crate) fn say(line: String) {
    eprintln!("{line}");
}

fn train(mut run: Run) -> Result<ExitCode> {
    let summary = summary(&run);
    for (name, value) in &summary.facts {
        eprintln!("{name}: {value}");
    }
    let mut observers = observers(&run, summary)?;
    let stop = interrupted("stopping after this step")?;
    match run.train(&mut observers, &stop)? {
        End::Finished => {
            eprintln!("report: {}", run.dir.report().display());
            if let Some(checkpoint) = run.checkpoint() {
                println!("{}", checkpoint.display());
            }
            Ok(ExitCode::SUCCESS)
        }
        End::Interrupted => {
            eprintln!("saved; continue with: hadal resume {}", run.dir.root().display());
            Ok(ExitCode::from(INTERRUPTED))
        }
    }
}

/// A flag that Ctrl-C or a termination signal sets; `what` is said then. The second one ends the program at once.
pub(crate) fn interrupted(what: &'static str) -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(INTERRUPTED));
        }
        eprintln!("\n{what}; once more to stop at once");
    })
    .context("listening for Ctrl-C")?;
    Ok(stop)
}

/// What a page and a person are told about a run at its beginning.
pub(crate) fn summary(run: &Run) -> RunSummary {
    let config = &run.model.config;
    let counts = Counts::of(config, run.recipe.data.seq_len as u32);
    let p = &counts.parameters;
    let short = train::report::units::scaled;
    let query = config.q_lora_rank.map_or("no query compression".to_owned(), |r| format!("query latent {r}"));
    let experts = format!(
        "{} routed in {} groups, {} per token, {} shared",
        config.n_routed_experts, config.n_group, config.num_experts_per_tok, config.n_shared_experts
    );
    RunSummary {
        name: name(run.dir.root()),
        facts: vec![
            (
                "Parameters".into(),
                format!(
                    "{} and {} in MTP layers; {} used by a token",
                    short(p.main as f64),
                    short(p.mtp as f64),
                    short(p.active.with_embedding_and_head as f64)
                ),
            ),
            (
                "Layers".into(),
                format!(
                    "{}, {} dense; hidden size {}; {} MTP",
                    config.num_hidden_layers,
                    config.first_k_dense_replace,
                    config.hidden_size,
                    run.model.mtp_depth()
                ),
            ),
            (
                "Attention".into(),
                format!("{} heads, {query}, key-value latent {}", config.num_attention_heads, config.kv_lora_rank),
            ),
            ("Experts".into(), experts),
            ("Vocabulary".into(), format!("{} rows, {} tokens", config.vocab_size, run.tokenizer.vocab_size())),
            (
                "Training".into(),
                format!(
                    "{} tokens in {} steps, rows of {}",
                    short(run.recipe.train.total_tokens as f64),
                    run.total_steps(),
                    run.recipe.data.seq_len
                ),
            ),
        ],
        total_tokens: run.recipe.train.total_tokens,
        total_steps: run.total_steps(),
        moe_layers: run.moe_layers(),
        recipe: run.recipe.to_toml(),
        evaluation: Vec::new(),
    }
}

fn name(dir: &Path) -> String {
    dir.file_name().map_or_else(|| dir.display().to_string(), |n| n.to_string_lossy().into_owned())
}

/// The log, the event file, the page and the terminal.
pub(crate) fn observers(run: &Run, summary: RunSummary) -> Result<Observers> {
    let resumed = run.is_resumed.then_some(run.step);
    let log = MetricsLog::open(&run.dir.metrics(), resumed)?;
    let history = if resumed.is_some() { History::read(&run.dir.metrics())? } else { History::of(&[]) };
    let board = TensorBoard::create(run.dir.root(), run.moe_layers(), resumed)?;
    let color = config::env::color_allowed() && std::io::stderr().is_terminal();
    let mut progress = Progress::stderr(color, Duration::from_secs(10));
    progress.begin(Plan {
        total_tokens: run.recipe.train.total_tokens,
        done_tokens: run.tokens,
        total_steps: run.total_steps(),
    });
    let page = HtmlReport::new(run.dir.report(), summary, history, Duration::from_secs(20));
    let all: Vec<Box<dyn Observer>> = vec![Box::new(log), Box::new(board), Box::new(page), Box::new(progress)];
    Ok(Observers(all))
}
