//! The fields that say how an answer is drawn: those of OpenAI's interface and the ones that other servers of open models
//! have added, under their names.

use engine::Sampling;
use serde_json::Value;

use crate::error::ApiError;
use crate::fields::Fields;
use crate::served::Served;

/// The most answers to one prompt, drawn ones included.
pub(crate) const MAX_CHOICES: u64 = 16;
/// The most likeliest tokens beside each token.
pub(crate) const MAX_LOGPROBS: u64 = 20;
const MAX_STOPS: usize = 16;
const MAX_STOP_BYTES: usize = 1024;
const MAX_BIASES: usize = 1024;

/// How an answer is drawn, and where it ends.
#[derive(Clone, Debug)]
pub(crate) struct Drawing {
    pub(crate) sampling: Sampling,
    pub(crate) seed: Option<u64>,
    pub(crate) n: usize,
    pub(crate) stop: Vec<String>,
    pub(crate) stop_tokens: Vec<u32>,
    pub(crate) logit_bias: Vec<(u32, f32)>,
    pub(crate) ignore_eos: bool,
    pub(crate) min_tokens: usize,
    pub(crate) salt: Option<String>,
    pub(crate) return_progress: bool,
}

impl Drawing {
    /// One answer as `sampling` says, with nothing special.
    pub(crate) fn plain(sampling: Sampling) -> Self {
        Self {
            sampling,
            seed: None,
            n: 1,
            stop: Vec::new(),
            stop_tokens: Vec::new(),
            logit_bias: Vec::new(),
            ignore_eos: false,
            min_tokens: 0,
            salt: None,
            return_progress: false,
        }
    }

    pub(crate) fn read(fields: &mut Fields, served: &Served) -> Result<Self, ApiError> {
        let defaults = served.defaults;
        let mut number = |name, range, default: f32| {
            Ok::<_, ApiError>(fields.number(name, range)?.map_or(default, |number| number as f32))
        };
        let sampling = Sampling {
            temperature: number("temperature", 0.0..=2.0, defaults.temperature)?,
            top_p: number("top_p", 0.0..=1.0, defaults.top_p)?,
            min_p: number("min_p", 0.0..=1.0, defaults.min_p)?,
            repetition_penalty: number("repetition_penalty", 0.1..=10.0, defaults.repetition_penalty)?,
            presence_penalty: number("presence_penalty", -2.0..=2.0, defaults.presence_penalty)?,
            frequency_penalty: number("frequency_penalty", -2.0..=2.0, defaults.frequency_penalty)?,
            top_k: top_k(fields)?.unwrap_or(defaults.top_k),
        };
        // A limit of 0 keeps nothing; published interfaces take it for the likeliest token.
        let sampling = if sampling.top_p == 0.0 { Sampling { top_p: f32::MIN_POSITIVE, ..sampling } } else { sampling };
        Ok(Self {
            sampling,
            seed: seed(fields)?,
            n: fields.integer("n", 1..=MAX_CHOICES)?.unwrap_or(1) as usize,
            stop: stops(fields, "stop")?,
            stop_tokens: stop_tokens(fields, served)?,
            logit_bias: logit_bias(fields, served)?,
            ignore_eos: fields.boolean("ignore_eos")?.unwrap_or(false),
            min_tokens: fields.integer("min_tokens", 0..=served.max_model_len as u64)?.unwrap_or(0) as usize,
            salt: salt(fields)?,
            return_progress: fields.boolean("return_progress")?.unwrap_or(false),
        })
    }
}

impl Drawing {
    /// Refuses what only a stream has a place for.
    pub(crate) fn check_stream(&self, stream: bool) -> Result<(), ApiError> {
        if !self.return_progress || stream {
            return Ok(());
        }
        let message = "return_progress needs stream: only a streamed answer has a place for it";
        Err(ApiError::field("invalid_value", "return_progress", message))
    }
}

/// `-1` is off, too, as elsewhere.
fn top_k(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    match fields.any("top_k") {
        None => Ok(None),
        Some(value) if value.as_i64() == Some(-1) => Ok(Some(0)),
        Some(value) => match value.as_u64() {
            Some(k) => Ok(Some(usize::try_from(k).unwrap_or(0))),
            None => Err(fields.wrong_type("top_k", "a whole number from -1", &value)),
        },
    }
}

/// Any 64-bit integer.
fn seed(fields: &mut Fields) -> Result<Option<u64>, ApiError> {
    match fields.any("seed") {
        None => Ok(None),
        Some(value) => match value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned)) {
            Some(seed) => Ok(Some(seed)),
            None => Err(fields.wrong_type("seed", "a whole number of 64 bits", &value)),
        },
    }
}

fn salt(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    match fields.string("cache_salt")? {
        Some(salt) if salt.is_empty() || salt.len() > 1024 => {
            let message = format!("cache_salt has {} bytes, but must have 1 to 1024", salt.len());
            Err(ApiError::field("invalid_value", "cache_salt", message))
        }
        salt => Ok(salt),
    }
}

/// A string or a list of them.
pub(crate) fn stops(fields: &mut Fields, name: &'static str) -> Result<Vec<String>, ApiError> {
    let items = match fields.any(name) {
        None => return Ok(Vec::new()),
        Some(Value::Array(items)) => items,
        Some(one @ Value::String(_)) => vec![one],
        Some(other) => return Err(fields.wrong_type(name, "a string or a list of strings", &other)),
    };
    let path = fields.path(name);
    if items.len() > MAX_STOPS {
        let message = format!("{path} has {} entries, and may have {MAX_STOPS}", items.len());
        return Err(ApiError::field("too_many_entries", path, message));
    }
    let read = |item: Value| match item {
        Value::String(text) if text.is_empty() => Err(ApiError::field(
            "invalid_value",
            &path,
            format!("{path} has an empty string, before which nothing can come"),
        )),
        Value::String(text) if text.len() > MAX_STOP_BYTES => {
            let message = format!("{path} has a string of {} bytes, and may have {MAX_STOP_BYTES}", text.len());
            Err(ApiError::field("invalid_value", &path, message))
        }
        Value::String(text) => Ok(text),
        other => {
            let message = format!("{path} must hold strings, not {}", crate::fields::kind(&other));
            Err(ApiError::field("invalid_type", &path, message))
        }
    };
    items.into_iter().map(read).collect()
}

fn stop_tokens(fields: &mut Fields, served: &Served) -> Result<Vec<u32>, ApiError> {
    let items = fields.list("stop_token_ids", 64)?.unwrap_or_default();
    items.iter().map(|item| token(item, served, "stop_token_ids")).collect()
}

fn logit_bias(fields: &mut Fields, served: &Served) -> Result<Vec<(u32, f32)>, ApiError> {
    let map = match fields.any("logit_bias") {
        None => return Ok(Vec::new()),
        Some(Value::Object(map)) => map,
        Some(other) => return Err(fields.wrong_type("logit_bias", "an object of token ids and numbers", &other)),
    };
    let path = fields.path("logit_bias");
    if map.len() > MAX_BIASES {
        let message = format!("{path} has {} entries, and may have {MAX_BIASES}", map.len());
        return Err(ApiError::field("too_many_entries", path, message));
    }
    let read = |(key, value): (String, Value)| {
        // A number may be read with a sign or zeros before it; an id is written in one way.
        let id = key
            .parse::<u32>()
            .ok()
            .filter(|id| id.to_string() == key)
            .filter(|&id| (id as usize) < served.tokenizer.vocab_size());
        let bias = value.as_f64().filter(|bias| (-100.0..=100.0).contains(bias));
        match (id, bias) {
            // As published, -100 bans a token.
            (Some(id), Some(-100.0)) => Ok((id, f32::NEG_INFINITY)),
            (Some(id), Some(bias)) => Ok((id, bias as f32)),
            _ => {
                let (key, value) = (key.chars().take(40).collect::<String>(), crate::fields::short(&value));
                let message = format!(
                    "{path} has {key:?}: {value}, but must have token ids below {} and numbers from -100 to 100",
                    served.tokenizer.vocab_size()
                );
                Err(ApiError::field("invalid_value", &path, message))
            }
        }
    };
    map.into_iter().map(read).collect()
}

/// An id that the tokenizer knows.
pub(crate) fn token(value: &Value, served: &Served, param: &str) -> Result<u32, ApiError> {
    let vocab_size = served.tokenizer.vocab_size();
    let id = value.as_u64().filter(|&id| id < vocab_size as u64);
    id.map(|id| id as u32).ok_or_else(|| {
        let message = format!(
            "{param} has {}, but must hold token ids, whole numbers below {vocab_size}",
            crate::fields::short(value)
        );
        ApiError::field("invalid_token", param, message)
    })
}
