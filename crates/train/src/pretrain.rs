//! A pre-training run: made or taken up again, stepped to its end, reported and saved on the way.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use config::{Counts, Recipe};
use data::{Loader, Validation};
use engine::{Request, Sampling};
use model::{Gradients, Model};
use tensor::{Ctx, Rng};
use tokenizer::Tokenizer;

use crate::error::{Error, Result};
use crate::guard::{Guard, Problem};
use crate::optimizer::Optimizer;
use crate::plan::{Plan, available};
use crate::prepare;
use crate::report::Observer;
use crate::report::metrics::{Event, Sample, StepMetrics, ValidationMetrics};
use crate::run_dir::RunDir;
use crate::save::{self, Progress};
use crate::step::{self, Measured, Scheduled};

/// A run in memory.
pub struct Run {
    /// Where it keeps its files.
    pub dir: RunDir,
    /// What it is.
    pub recipe: Recipe,
    /// Where it computes.
    pub ctx: Ctx,
    /// What it trains.
    pub model: Model,
    /// Its text.
    pub tokenizer: Tokenizer,
    optimizer: Optimizer,
    grads: Gradients,
    loader: Loader,
    validation: Option<Validation>,
    /// Steps taken.
    pub step: u64,
    /// Tokens consumed.
    pub tokens: u64,
    elapsed_s: f64,
    guard: Guard,
    /// Whether its directory was there before.
    pub is_resumed: bool,
    flops_per_token: f64,
    peak_flops: f64,
}

/// How [`Run::train`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All tokens are consumed.
    Finished,
    /// Stopped from outside; everything is saved.
    Interrupted,
}

impl Run {
    /// A new run in the recipe's directory. `say` gets what happens before training, a line at a time.
    ///
    /// # Errors
    /// When the directory holds a run already, the machine has not the memory, or any part of the recipe cannot be made.
    pub fn create(recipe: Recipe, say: &mut dyn FnMut(String)) -> Result<Self> {
        // Refused before a directory is made: contradictions between recipe and model.
        recipe.model_config()?;
        check_memory(&recipe)?;
        let dir = RunDir::create(&recipe)?;
        Self::assemble(dir.clone(), recipe, false, say).inspect_err(|_| dir.abandon())
    }

    /// An existing run, from its newest checkpoint, or from its beginning if it has none yet. `threads` gives the
    /// number to use beside the recipe's: results do not depend on it.
    ///
    /// # Errors
    /// When there is no run, the machine has not the memory, or a part of it is missing, damaged or contradictory.
    pub fn resume(root: &Path, threads: impl Fn(usize) -> usize, say: &mut dyn FnMut(String)) -> Result<Self> {
        let (dir, mut recipe) = RunDir::open(root)?;
        recipe.threads = threads(recipe.threads);
        check_memory(&recipe)?;
        Self::assemble(dir, recipe, true, say)
    }

    fn assemble(dir: RunDir, recipe: Recipe, is_resumed: bool, say: &mut dyn FnMut(String)) -> Result<Self> {
        let ctx = Ctx::new(recipe.threads)?;
        let tokenizer = prepare::tokenizer(&dir, &recipe, say)?;
        let dataset = prepare::dataset(&recipe, &tokenizer, say)?;
        let config = prepare::model_config(&recipe, &tokenizer)?;
        let loader_config = prepare::loader_config(&recipe);
        let validation = (recipe.validation.every_steps > 0)
            .then(|| {
                let sources = dataset.sources(data::Split::Validation).count().max(1) as u64;
                let rows = (recipe.validation.sequences as u64).div_ceil(sources);
                Validation::open(&dataset, recipe.data.seq_len, Some(rows))
            })
            .transpose()?;

        let checkpoint = dir.saved_steps()?.last().copied();
        let (model, optimizer, loader, progress) = if let Some(step) = checkpoint {
            let path = dir.checkpoint(step);
            let (model, optimizer, progress) = save::load(&path, &config, recipe.optim.moments)?;
            let loader = Loader::resume(&dataset, &loader_config, &progress.loader)?;
            (model, optimizer, loader, progress)
        } else {
            let model = Model::random(&config, recipe.model.init_std, recipe.seed);
            let optimizer = Optimizer::new(&model.params, recipe.optim.moments);
            let loader = Loader::new(&dataset, &loader_config)?;
            let start =
                Progress { step: 0, tokens: 0, elapsed_s: 0.0, loader: loader.state(), guard: Guard::default() };
            (model, optimizer, loader, start)
        };
        let model = model.with_precision(step::precision(&recipe));
        let flops = Counts::of(&config, recipe.data.seq_len as u32).flops_per_token;
        let grads = Gradients::new(&ctx, &model.params);
        Ok(Self {
            flops_per_token: (flops.training + flops.training_mtp) as f64,
            peak_flops: ops::machine::flops(&ctx, step::precision(&recipe)),
            dir,
            recipe,
            ctx,
            model,
            tokenizer,
            optimizer,
            grads,
            loader,
            validation,
            step: progress.step,
            tokens: progress.tokens,
            elapsed_s: progress.elapsed_s,
            guard: progress.guard,
            is_resumed,
        })
    }

    /// Whether all tokens are consumed.
    pub fn is_finished(&self) -> bool {
        self.tokens >= self.recipe.train.total_tokens
    }

    /// The number of steps of the whole run.
    pub fn total_steps(&self) -> u64 {
        let (mut steps, mut tokens) = (self.step, self.tokens);
        while tokens < self.recipe.train.total_tokens {
            tokens += (self.recipe.batch_at(tokens) * self.recipe.data.seq_len) as u64;
            steps += 1;
        }
        steps
    }

    /// The layer number of each mixture layer, in the order of the metrics.
    pub fn moe_layers(&self) -> Vec<usize> {
        let config = &self.model.config;
        let main = (0..config.num_hidden_layers).filter(|&layer| config.is_moe(layer));
        main.chain((0..self.model.mtp_depth()).map(|k| config.num_hidden_layers + k)).collect()
    }

    /// The newest checkpoint.
    pub fn checkpoint(&self) -> Option<PathBuf> {
        self.dir.saved_steps().ok()?.last().map(|&step| self.dir.checkpoint(step))
    }

    /// Trains to the end of the recipe, or until `stop` is set; then the last step is saved.
    ///
    /// # Errors
    /// When the loss or the gradient is no longer worth training on, or something cannot be read, written or reported.
    pub fn train(&mut self, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<End> {
        if self.step > 0 {
            observer.on_event(&Event::Resumed { step: self.step, path: RunDir::checkpoint_name(self.step) })?;
        }
        let elapsed_before = self.elapsed_s;
        let begin = Instant::now();
        while !self.is_finished() {
            if stop.load(Ordering::Relaxed) {
                self.save(observer)?;
                observer.on_event(&Event::Interrupted { step: self.step })?;
                observer.finish()?;
                return Ok(End::Interrupted);
            }
            let start = Instant::now();
            let now = step::scheduled(&self.recipe, self.step, self.tokens);
            let position = self.loader.state().next_sequence;
            let batch = self.loader.batch(now.sequences as u64)?;
            let measured = step::forward_backward(&self.ctx, &self.model, &mut self.grads, &self.recipe, now, &batch);
            if let Some(problem) = self.guard.check(&measured, &self.recipe.guard) {
                let batch = self.identity(position, &batch);
                return Err(self.stop(observer, problem, batch));
            }
            step::update(&self.ctx, &mut self.model, &mut self.optimizer, &self.grads, &self.recipe, now, &measured);
            let consumed = (batch.rows * batch.seq_len) as u64;
            self.step += 1;
            self.tokens += consumed;
            self.elapsed_s = elapsed_before + begin.elapsed().as_secs_f64();

            let last = self.is_finished();
            let due = |every: u64| every > 0 && (last || self.step.is_multiple_of(every));
            if due(self.recipe.log.every_steps) {
                let seconds = start.elapsed().as_secs_f64();
                observer.on_step(&self.metrics(now, measured, consumed, seconds))?;
            }
            if due(self.recipe.validation.every_steps) {
                let validation = self.validate()?;
                observer.on_validation(&validation)?;
            }
            if due(self.recipe.samples.every_steps) {
                for sample in self.samples()? {
                    observer.on_sample(&sample)?;
                }
            }
            if due(self.recipe.checkpoint.every_steps) {
                self.save(observer)?;
            }
        }
        observer.on_event(&Event::Finished { step: self.step })?;
        observer.finish()?;
        Ok(End::Finished)
    }

    fn metrics(&self, now: Scheduled, measured: Measured, consumed: u64, seconds: f64) -> StepMetrics {
        let tokens_per_s = consumed as f64 / seconds;
        StepMetrics {
            step: self.step,
            tokens: self.tokens,
            loss: measured.loss,
            main_loss: measured.main_loss,
            mtp_loss: measured.mtp_loss,
            balance_loss: measured.balance_loss,
            lr: now.lr,
            grad_norm: measured.grad_norm,
            batch_sequences: now.sequences as u64,
            tokens_per_s,
            mfu: tokens_per_s * self.flops_per_token / self.peak_flops,
            max_vio: measured.expert_load.iter().map(|load| step::max_vio(load)).collect(),
            expert_load: measured.expert_load,
            elapsed_s: self.elapsed_s,
        }
    }

    /// The held-out rows' cross-entropy.
    ///
    /// # Errors
    /// When a shard is damaged.
    pub fn validate(&self) -> Result<ValidationMetrics> {
        let mut metrics = ValidationMetrics { step: self.step, tokens: self.tokens, ..ValidationMetrics::default() };
        let Some(validation) = &self.validation else { return Ok(metrics) };
        let (mut nats, mut scored, mut bytes) = (0.0, 0, 0);
        for rows in validation.batches(self.recipe.train.micro_batch as u64) {
            let rows = rows?;
            let batch = &rows.batch;
            let batch = model::Batch { tokens: &batch.tokens, labels: &batch.labels, seq_len: batch.seq_len };
            nats += ops::cross_entropy::sum(&self.model.losses(&self.ctx, batch));
            scored += rows.batch.scored();
            bytes += rows.text_bytes;
        }
        metrics.nats_per_token = nats / scored as f64;
        metrics.bits_per_byte = nats / (std::f64::consts::LN_2 * bytes as f64);
        Ok(metrics)
    }

    fn samples(&self) -> Result<Vec<Sample>> {
        let settings = &self.recipe.samples;
        let eos = self.tokenizer.require(tokenizer::Role::Eos)?;
        let requests = settings.prompts.iter().zip(0..).map(|(prompt, index)| {
            // Documents begin after an EOS in training (`data`): a sample begins the same way.
            let prompt = [vec![eos], self.tokenizer.encode_untrusted(prompt)].concat();
            Ok(Request {
                sampling: Sampling { temperature: settings.temperature as f32, ..Sampling::default() },
                seed: Rng::new(self.recipe.seed, "samples", self.step * settings.prompts.len() as u64 + index).bits(),
                stop: vec![eos],
                vocab_limit: self.tokenizer.vocab_size(),
                ..Request::new(prompt, settings.max_tokens)
            })
        });
        let requests = requests.collect::<Result<Vec<_>>>()?;
        let completions = engine::complete(&self.ctx, &self.model, &requests)?;
        let texts = settings.prompts.iter().zip(completions);
        Ok(texts
            .map(|(prompt, completion)| Sample {
                step: self.step,
                prompt: prompt.clone(),
                text: self.tokenizer.decode(&completion.tokens, true),
            })
            .collect())
    }

    fn save(&self, observer: &mut dyn Observer) -> Result<()> {
        let path = self.dir.checkpoint(self.step);
        if fs_err::exists(&path)? {
            return Ok(());
        }
        let progress = Progress {
            step: self.step,
            tokens: self.tokens,
            elapsed_s: self.elapsed_s,
            loader: self.loader.state(),
            guard: self.guard.clone(),
        };
        let policy = &self.recipe.checkpoint;
        save::save(&path, &self.model, &self.optimizer, &progress, policy.dtype, &self.dir.tokenizer())?;
        self.dir.settle(policy)?;
        observer.on_event(&Event::CheckpointSaved { step: self.step, path: RunDir::checkpoint_name(self.step) })?;
        Ok(())
    }

    /// What names a batch: the loader gives the same rows for these numbers at any time.
    fn identity(&self, first_sequence: u64, batch: &data::Batch) -> String {
        let names: Vec<&str> = self.loader.sources().collect();
        let row = |o: &data::Origin| format!("{}:{}", names.get(o.source).unwrap_or(&"?"), o.row);
        let shown: Vec<String> = batch.origins.iter().take(8).map(row).collect();
        let more = if batch.origins.len() > shown.len() { ", .." } else { "" };
        let end = first_sequence + batch.rows as u64 - 1;
        format!("sequences {first_sequence} to {end} (source:row {}{more})", shown.join(", "))
    }

    fn stop(&self, observer: &mut dyn Observer, problem: Problem, batch: String) -> Error {
        let step = self.step + 1;
        let (event, problem) = match problem {
            Problem::NotFinite { quantity } => (
                Event::NotFinite { step, quantity: quantity.to_owned(), batch: batch.clone() },
                format!("{quantity} is not finite"),
            ),
            Problem::Spike { loss, expected } => (
                Event::LossSpike { step, loss, expected, batch: batch.clone() },
                format!("the loss is {loss:.4}, where the last steps had {expected:.4}"),
            ),
        };
        // The divergence is what the user must hear of; a report that cannot be written comes second.
        let _ = observer.on_event(&event);
        let _ = observer.finish();
        Error::Diverged { step, problem, batch, checkpoint: self.checkpoint() }
    }
}

/// Refuses a run that would not fit this machine's memory: it would end much later, and less clearly.
fn check_memory(recipe: &Recipe) -> Result<()> {
    let threads = match recipe.threads {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        n => n,
    };
    Plan::of(recipe, threads)?.check(recipe, threads, available().as_ref())
}
