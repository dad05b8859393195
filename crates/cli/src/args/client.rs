use std::ops::Range;
use std::path::PathBuf;

use clap::{Args as Group, Subcommand};
use client::load::Slo;
use serde_json::{Map, Value};

use super::Compute;

/// How to talk to a server. The server itself is `--url`, which each command has in its own way.
#[derive(Group, Clone, Debug)]
pub(crate) struct Access {
    /// The environment variable that holds the server's key.
    #[arg(long, value_name = "VARIABLE", requires = "url", conflicts_with = "api_key_file")]
    pub(crate) api_key_env: Option<String>,
    /// The file that holds the server's key and nothing else.
    #[arg(long, value_name = "FILE", requires = "url")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// For how many seconds the server may say nothing until that is a failure; a connection must be there after 10.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, requires = "url", value_parser = clap::value_parser!(u64).range(1..=86400))]
    pub(crate) timeout: u64,
}

/// A server under load.
#[derive(Group)]
pub(crate) struct BenchServe {
    /// The server, such as http://127.0.0.1:8000; it speaks OpenAI's interface.
    #[arg(long)]
    pub(crate) url: String,
    /// The model's name; the server's first one without it.
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    #[command(flatten)]
    pub(crate) access: Access,
    #[command(flatten)]
    pub(crate) arrivals: Arrivals,
    #[command(flatten)]
    pub(crate) end: End,
    /// Requests before the measurement, one after the other, which do not count; if one fails, nothing is measured.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) warmup: u64,
    /// Tokens of a prompt. Prompts are random token ids, sent to /v1/completions.
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(crate) input_tokens: usize,
    /// Tokens of an answer, 128 without it; random prompts are answered with exactly so many (ignore_eos). With
    /// --dataset the most tokens, and what its lines say without it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) output_tokens: Option<u64>,
    /// The first of the prompt's tokens are the same in all prompts.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) shared_prefix_tokens: usize,
    /// The token ids that random prompts are drawn from, all of which the model must have.
    #[arg(long, value_name = "FROM..BELOW", default_value = "1000..10000", value_parser = range)]
    pub(crate) token_ids: Range<u32>,
    /// Conversations instead of random tokens, sent to /v1/chat/completions: lines of {"prompt": ".."} or
    /// {"messages": [..]}, each perhaps with "max_tokens"; again from the first after the last.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["input_tokens", "shared_prefix_tokens", "token_ids"])]
    pub(crate) dataset: Option<PathBuf>,
    /// Fields to add to every request, or to put in the place of ours; null takes one out. For llama.cpp, for example,
    /// {"cache_prompt": false}.
    #[arg(long, value_name = "JSON", value_parser = object)]
    pub(crate) extra: Option<Map<String, Value>>,
    /// What a good request keeps, in seconds: ttft, itl (the longest gap between two chunks), tpot and e2e, such as
    /// ttft=1.0,itl=0.1,e2e=30.
    #[arg(long, value_name = "NAME=SECONDS,..")]
    pub(crate) slo: Option<Slo>,
    /// Seed of the prompts and of the arrivals.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Write a row for each request to this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) csv: Option<PathBuf>,
}

/// When requests are sent.
#[derive(Group)]
#[group(required = true, multiple = true)]
pub(crate) struct Arrivals {
    /// Closed loop: so many users, each of whom waits for the answer before asking again. With --rate the most requests
    /// that are under way; others wait, and their waiting counts.
    #[arg(long, value_name = "N")]
    pub(crate) concurrency: Option<usize>,
    /// Open loop: so many requests a second on average, at random moments, whatever the server does. Times count from
    /// the moment a request was due.
    #[arg(long, value_name = "R")]
    pub(crate) rate: Option<f64>,
}

/// When no more requests are sent. Those that were sent are waited for.
#[derive(Group)]
#[group(required = true, multiple = true)]
pub(crate) struct End {
    /// Send so many requests.
    #[arg(long, value_name = "N")]
    pub(crate) requests: Option<u64>,
    /// Send requests for so many seconds.
    #[arg(long, value_name = "S")]
    pub(crate) seconds: Option<f64>,
}

#[derive(Group)]
pub(crate) struct Batch {
    #[command(subcommand)]
    pub(crate) what: BatchCommand,
}

#[derive(Subcommand)]
pub(crate) enum BatchCommand {
    /// Answer the requests of a file in the form of OpenAI's batches; run again, it goes on where it was.
    Run(BatchRun),
}

#[derive(Group)]
pub(crate) struct BatchRun {
    /// The requests, a line each: {"custom_id": "..", "method": "POST", "url": "/v1/chat/completions", "body": {..}}.
    pub(crate) input: PathBuf,
    /// The answers, a line each, in the order in which they come. Requests that have one there are not sent again.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// The server, such as http://127.0.0.1:8000; it speaks OpenAI's interface.
    #[arg(long, required_unless_present = "model", conflicts_with = "model")]
    pub(crate) url: Option<String>,
    /// Answer here, without a server, with the model in this directory.
    #[arg(long)]
    pub(crate) model: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) access: Access,
    #[command(flatten)]
    pub(crate) compute: Compute,
    /// Memory for latents of a model that answers here, in GiB.
    #[arg(long, value_name = "GIB", default_value_t = 4.0)]
    pub(crate) kv_memory: f64,
    /// Requests at the same time.
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) concurrency: usize,
    /// How often a request is sent again that fails for the moment (408, 429, 502, 503, 504, or a connection that broke),
    /// each time after a longer wait, or after the one that the server asks for.
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) retries: u32,
}

fn range(text: &str) -> Result<Range<u32>, String> {
    let parsed =
        text.split_once("..").and_then(|(from, below)| Some(from.trim().parse().ok()?..below.trim().parse().ok()?));
    let parsed = parsed.ok_or("it must be two ids, such as 1000..10000")?;
    if parsed.is_empty() { Err("it has no ids".to_owned()) } else { Ok(parsed) }
}

fn object(text: &str) -> Result<Map<String, Value>, String> {
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err("it must be an object, such as {\"cache_prompt\": false}".to_owned()),
        Err(error) => Err(format!("no JSON: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_strictly() {
        assert_eq!(range("3..7"), Ok(3..7));
        for wrong in ["", "3", "..", "3..", "7..3", "3..3", "-1..4", "3...7"] {
            assert!(range(wrong).is_err(), "{wrong}");
        }
        assert!(object("{\"a\":null}").is_ok_and(|object| object["a"].is_null()));
        for wrong in ["", "1", "[]", "{a:1}"] {
            assert!(object(wrong).is_err(), "{wrong}");
        }
    }
}
