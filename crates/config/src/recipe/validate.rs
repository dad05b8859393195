//! Ranges and relations between the keys of a recipe.

use toml::Table;

use super::error::RecipeError;
use super::{FloatType, Recipe, Role, Source, Tokenizer, Until};
use crate::model::ModelConfig;

impl Recipe {
    /// Checks every range and relation. Reading a recipe ends with it; call it again after changing fields.
    ///
    /// # Errors
    /// The first key that is out of range or in contradiction with another.
    pub fn validate(&self) -> Result<(), RecipeError> {
        for (key, value) in [
            ("tokenizer.train_vocab_size", self.train_vocab_size().unwrap_or(1) as u64),
            ("train.total_tokens", self.train.total_tokens),
            ("train.micro_batch", self.train.micro_batch as u64),
            ("batch.start", self.batch.start as u64),
            ("validation.sequences", self.validation.sequences as u64),
            ("samples.max_tokens", self.samples.max_tokens as u64),
            ("checkpoint.every_steps", self.checkpoint.every_steps),
            ("checkpoint.keep_last", self.checkpoint.keep_last as u64),
            ("checkpoint.keep_every_steps", self.checkpoint.keep_every_steps.unwrap_or(1)),
            ("guard.window", self.guard.window as u64),
            ("log.every_steps", self.log.every_steps),
        ] {
            ensure(value >= 1, key, value, "at least 1")?;
        }
        ensure(!self.out.as_os_str().is_empty(), "out", "an empty path", "a directory")?;
        ensure(self.model.init_std > 0.0, "model.init_std", self.model.init_std, "positive")?;
        self.check_data()?;
        self.check_batch()?;
        self.check_optimiser()?;
        self.check_schedules()?;
        self.check_intervals()
    }

    fn train_vocab_size(&self) -> Option<usize> {
        match self.tokenizer {
            Tokenizer::TrainVocabSize(size) => Some(size),
            Tokenizer::Path(_) => None,
        }
    }

    fn check_data(&self) -> Result<(), RecipeError> {
        let data = &self.data;
        ensure(data.seq_len >= 2, "data.seq_len", data.seq_len, "at least 2: a token and the one it predicts")?;
        ensure((0.0..1.0).contains(&data.held_out), "data.held_out", data.held_out, "from 0, below 1")?;
        let rate = data.boundary_split_rate;
        ensure((0.0..=1.0).contains(&rate), "data.boundary_split_rate", rate, "from 0 to 1")?;
        ensure(!data.sources.is_empty(), "data.sources", "none", "at least one source")?;
        for (i, source) in data.sources.iter().enumerate() {
            let key = |name: &str| format!("data.sources.{i}.{name}");
            ensure(!source.name.is_empty(), &key("name"), "an empty name", "a name")?;
            ensure(!source.paths.is_empty(), &key("paths"), "none", "at least one path")?;
            ensure(source.weight >= 0.0, &key("weight"), source.weight, "at least 0")?;
            ensure((0.0..=1.0).contains(&source.fim_rate), &key("fim_rate"), source.fim_rate, "from 0 to 1")?;
            check_source(source, key)?;
            if let Some(first) = data.sources[..i].iter().position(|other| other.name == source.name) {
                let other = format!("data.sources.{first}.name");
                return Err(conflict(&key("name"), &source.name, &other, &source.name, "two sources need two names"));
            }
        }
        let total: f64 = data.sources.iter().map(|source| source.weight).sum();
        ensure(total > 0.0 && total.is_finite(), "data.sources", total, "of weights with a positive, finite sum")
    }

    fn check_batch(&self) -> Result<(), RecipeError> {
        let (batch, micro) = (&self.batch, self.train.micro_batch);
        for (key, sequences) in [("batch.start", batch.start), ("batch.end", batch.end)] {
            if !sequences.is_multiple_of(micro) {
                let rule = "a batch is a whole number of micro-batches";
                return Err(conflict(key, sequences, "train.micro_batch", micro, rule));
            }
        }
        if (batch.end as u64).checked_mul(self.data.seq_len as u64).is_none_or(|tokens| tokens > i64::MAX as u64) {
            let rule = "the tokens of a step must be countable in 63 bits";
            return Err(conflict("batch.end", batch.end, "data.seq_len", self.data.seq_len, rule));
        }
        if batch.start > batch.end {
            let rule = "the batch grows and does not shrink";
            return Err(conflict("batch.start", batch.start, "batch.end", batch.end, rule));
        }
        if batch.start != batch.end && batch.ramp_tokens == 0 {
            let rule = "without a ramp the batch never has its starting size";
            return Err(conflict("batch.start", batch.start, "batch.ramp_tokens", 0, rule));
        }
        Ok(())
    }

    fn check_optimiser(&self) -> Result<(), RecipeError> {
        let optim = &self.optim;
        ensure((0.0..1.0).contains(&optim.beta1), "optim.beta1", optim.beta1, "from 0, below 1")?;
        ensure((0.0..1.0).contains(&optim.beta2), "optim.beta2", optim.beta2, "from 0, below 1")?;
        ensure(optim.eps > 0.0, "optim.eps", optim.eps, "positive")?;
        ensure(optim.weight_decay >= 0.0, "optim.weight_decay", optim.weight_decay, "at least 0")?;
        ensure(optim.clip_norm > 0.0, "optim.clip_norm", optim.clip_norm, "positive; inf never clips")?;
        if optim.moments == FloatType::Bf16 && optim.beta2 > 0.99 {
            let rule = "bf16 rounds away most updates of a second moment that moves by less than 1 % a step";
            return Err(conflict("optim.moments", "bf16", "optim.beta2", optim.beta2, rule));
        }
        let alpha = self.loss.balance_alpha;
        ensure(alpha >= 0.0, "loss.balance_alpha", alpha, "at least 0")
    }

    fn check_schedules(&self) -> Result<(), RecipeError> {
        ensure(self.lr.peak > 0.0, "lr.peak", self.lr.peak, "positive")?;
        let phases = self.lr.phases.iter().map(|phase| (phase.until, phase.to));
        self.check_phases("lr.phases", "to", phases)?;
        for (key, steps) in
            [("loss.mtp_lambda", &self.loss.mtp_lambda), ("loss.bias_update_speed", &self.loss.bias_update_speed)]
        {
            self.check_phases(key, "value", steps.iter().map(|step| (step.until, step.value)))?;
        }
        Ok(())
    }

    fn check_phases(
        &self,
        list: &str,
        value_key: &str,
        phases: impl Iterator<Item = (Until, f64)>,
    ) -> Result<(), RecipeError> {
        let mut begin = 0;
        for (i, (until, value)) in phases.enumerate() {
            ensure(value >= 0.0, &format!("{list}.{i}.{value_key}"), value, "at least 0")?;
            let key = match until {
                Until::UntilTokens(_) => format!("{list}.{i}.until_tokens"),
                Until::UntilFraction(fraction) => {
                    let key = format!("{list}.{i}.until_fraction");
                    ensure(fraction > 0.0 && fraction <= 1.0, &key, fraction, "above 0, at most 1")?;
                    key
                }
            };
            let end = until.tokens(self.train.total_tokens);
            ensure(end > begin, &key, format!("{end} tokens"), "after the end of the phase before")?;
            begin = end;
        }
        Ok(())
    }

    fn check_validation(&self) -> Result<(), RecipeError> {
        let (every, sources) = (self.validation.every_steps, &self.data.sources);
        let any = |role| sources.iter().any(|source| source.role == role);
        if every == 0 || any(Role::Validation) || (any(Role::Split) && self.data.held_out > 0.0) {
            return Ok(());
        }
        let rule = "there is nothing to validate on";
        if any(Role::Split) {
            return Err(conflict("validation.every_steps", every, "data.held_out", 0, rule));
        }
        Err(conflict("validation.every_steps", every, "data.sources.0.role", "train", rule))
    }

    fn check_intervals(&self) -> Result<(), RecipeError> {
        let (samples, checkpoint) = (&self.samples, &self.checkpoint);
        self.check_validation()?;
        if samples.every_steps > 0 && samples.prompts.is_empty() {
            let rule = "there is nothing to continue";
            return Err(conflict("samples.every_steps", samples.every_steps, "samples.prompts", "[]", rule));
        }
        ensure(samples.temperature >= 0.0, "samples.temperature", samples.temperature, "at least 0")?;
        ensure(self.guard.spike_factor > 1.0, "guard.spike_factor", self.guard.spike_factor, "above 1")?;
        match checkpoint.keep_every_steps {
            Some(keep) if !keep.is_multiple_of(checkpoint.every_steps) => Err(conflict(
                "checkpoint.keep_every_steps",
                keep,
                "checkpoint.every_steps",
                checkpoint.every_steps,
                "only a step that is saved can be kept, so it must be a multiple",
            )),
            _ => Ok(()),
        }
    }
}

/// What the role and the other keys of a source say of each other; `key` gives the dotted key of a name.
fn check_source(source: &Source, key: impl Fn(&str) -> String) -> Result<(), RecipeError> {
    let (weight, fim_rate) = (source.weight, source.fim_rate);
    match source.role {
        Role::Validation if weight > 0.0 => {
            let rule = "a source to validate on gives no tokens to train on";
            Err(conflict(&key("weight"), weight, &key("role"), "validation", rule))
        }
        Role::Split | Role::Train if weight == 0.0 => {
            let must = "positive, or the role \"validation\": nothing would be drawn from the source";
            ensure(false, &key("weight"), weight, must)
        }
        Role::Validation if fim_rate > 0.0 => {
            let rule = "documents to validate on are never rearranged";
            Err(conflict(&key("fim_rate"), fim_rate, &key("role"), "validation", rule))
        }
        _ if source.control_tokens && fim_rate > 0.0 => {
            let rule = "rearranging would cut control tokens in two";
            Err(conflict(&key("fim_rate"), fim_rate, &key("control_tokens"), true, rule))
        }
        _ => Ok(()),
    }
}

/// Pairs of keys of which a table has exactly one.
pub(super) fn alternatives(tree: &Table) -> Result<(), RecipeError> {
    let empty = Table::new();
    let section = |name: &str| tree.get(name).and_then(toml::Value::as_table).unwrap_or(&empty);
    either(section("model"), "model", "preset", "config")?;
    either(section("tokenizer"), "tokenizer", "path", "train_vocab_size")?;
    for (section_name, list) in [("lr", "phases"), ("loss", "mtp_lambda"), ("loss", "bias_update_speed")] {
        let phases = section(section_name).get(list).and_then(toml::Value::as_array);
        for (i, phase) in phases.into_iter().flatten().enumerate() {
            let phase = phase.as_table().expect("checked to be a table");
            either(phase, &format!("{section_name}.{list}.{i}"), "until_tokens", "until_fraction")?;
        }
    }
    Ok(())
}

fn either(table: &Table, shown: &str, first: &str, second: &str) -> Result<(), RecipeError> {
    let found = match (table.contains_key(first), table.contains_key(second)) {
        (true, true) => "both are set",
        (false, false) => "neither is set",
        _ => return Ok(()),
    };
    Err(RecipeError::EitherOr { first: format!("{shown}.{first}"), second: format!("{shown}.{second}"), found })
}

/// What the run needs of its model.
pub(super) fn fits_model(recipe: &Recipe, config: &ModelConfig) -> Result<(), RecipeError> {
    let (seq_len, longest) = (recipe.data.seq_len, config.max_position_embeddings);
    if seq_len > longest {
        let rule = "a row must not be longer than the model's context";
        return Err(conflict("data.seq_len", seq_len, "max_position_embeddings", longest, rule));
    }
    match recipe.train_vocab_size() {
        Some(size) if size > config.vocab_size => Err(conflict(
            "tokenizer.train_vocab_size",
            size,
            "vocab_size",
            config.vocab_size,
            "the model needs a row of its embedding for every token",
        )),
        _ => Ok(()),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "callers pass numbers and literals")]
fn ensure(holds: bool, key: &str, found: impl ToString, must: &'static str) -> Result<(), RecipeError> {
    if holds { Ok(()) } else { Err(RecipeError::OutOfRange { key: key.to_owned(), found: found.to_string(), must }) }
}

#[expect(clippy::needless_pass_by_value, reason = "callers pass numbers and literals")]
fn conflict(
    key: &str,
    found: impl ToString,
    other: &str,
    other_found: impl ToString,
    rule: &'static str,
) -> RecipeError {
    RecipeError::Conflict {
        key: key.to_owned(),
        found: found.to_string(),
        other: other.to_owned(),
        other_found: other_found.to_string(),
        rule,
    }
}
