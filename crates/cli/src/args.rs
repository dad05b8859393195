mod bench;
mod client;
mod plan;
mod serve;

use std::path::PathBuf;

use clap::{Args as Group, Parser, Subcommand};

pub(crate) use bench::{Bench, BenchCommand, BenchInfer, BenchKernels, BenchMachine, BenchTrain};
pub(crate) use client::{Access, Batch, BatchCommand, BatchRun, BenchServe};
pub(crate) use plan::Plan;
pub(crate) use serve::{LogFormat, MetricsCompat, MtpMode, Serve};

/// DeepSeek-V3 in Rust, whole: train it, measure it, talk to it.
#[derive(Parser)]
#[command(name = "hadal", version, max_term_width = 100)]
pub(crate) struct Args {
    /// Compute threads; 0 or nothing means the recipe's, or HADAL_THREADS, or else all cores. Results do not depend on it.
    #[arg(long, global = true, default_value_t = 0)]
    pub(crate) threads: usize,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// From nothing to a trained model that answers: makes a corpus, trains, evaluates, chats.
    Quickstart(Quickstart),
    /// Write a model directory with random weights.
    Init(Init),
    /// Pre-train a model as a recipe says.
    Pretrain(Pretrain),
    /// Continue a run from its newest checkpoint.
    Resume(Resume),
    /// Continue a prompt.
    Generate(Generate),
    /// Talk to a model, of this machine or behind a server.
    Chat(Chat),
    /// Serve a model over HTTP: OpenAI's and Anthropic's interfaces, and a page to chat on.
    Serve(Box<Serve>),
    /// Compute logits, hidden states and router choices of a text, for parity checks.
    Logits(Logits),
    /// Measure the machine, kernels, a model or training, each beside the machine's limits, or a server.
    Bench(Bench),
    /// Answer a file of requests.
    Batch(Batch),
    /// Write a model directory again with its weights in other formats: 4 bits, 8 bits, FP8, bf16 or f32.
    Convert(Convert),
    /// Measure how well a model predicts a text, in bits per byte.
    Eval(Eval),
    /// Say what a run, or answering, needs of memory and disk before it starts, and what that is made of.
    Plan(Plan),
    /// Count parameters, FLOPs and bytes of a model from its config, and what a directory stores.
    Inspect(Inspect),
}

#[derive(Group)]
pub(crate) struct Quickstart {
    /// Directory of everything it makes. Run again on it, it resumes, or says what is there.
    #[arg(long, default_value = "quickstart")]
    pub(crate) out: PathBuf,
    /// How long training should take on this machine, roughly; speed is measured first.
    #[arg(long, default_value_t = 8.0)]
    pub(crate) minutes: f64,
    /// Seed of everything random.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// End after the evaluation instead of opening a prompt.
    #[arg(long)]
    pub(crate) no_chat: bool,
}

#[derive(Group)]
pub(crate) struct Init {
    /// A built-in configuration.
    #[arg(long)]
    pub(crate) preset: String,
    /// Where to write; must not hold weights yet.
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// A key of config.json to change, such as num_hidden_layers=2; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) sets: Vec<String>,
    /// Type of the stored weights.
    #[arg(long, default_value = "bf16")]
    pub(crate) dtype: Dtype,
    /// Standard deviation of the matrices; without it 0.006 · sqrt(7168 / hidden_size).
    #[arg(long = "init-std")]
    pub(crate) std: Option<f64>,
    /// Seed of the weights.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Dtype {
    F32,
    Bf16,
}

#[derive(Group)]
pub(crate) struct Pretrain {
    /// The recipe, a TOML file; docs/recipe.md lists its keys.
    pub(crate) recipe: PathBuf,
    /// A key of the recipe to change, such as optim.weight_decay=0.05; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) sets: Vec<String>,
}

#[derive(Group)]
pub(crate) struct Resume {
    /// The run's directory.
    pub(crate) run: PathBuf,
}

/// How a model computes.
#[derive(Group, Clone, Copy, Debug, Default)]
pub(crate) struct Compute {
    /// What the operands of products are rounded to; sums are f32 either way. Without it bf16 where the weights are stored
    /// in 16 bits or fewer, and f32 where they are not.
    #[arg(long)]
    pub(crate) dtype: Option<Dtype>,
    /// How latents are kept between tokens; without it in the type that operands are rounded to.
    #[arg(long)]
    pub(crate) cache: Option<CacheType>,
    /// Read experts from disk when they are needed, and keep at most this many GiB of them in memory: for models that are
    /// larger than memory. Those used longest ago leave first.
    #[arg(long, value_name = "GIB")]
    pub(crate) expert_memory: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum CacheType {
    F32,
    Bf16,
    Fp8,
}

/// How tokens are drawn. What is not given comes from the model's generation_config.json, or is off.
#[derive(Group, Clone)]
pub(crate) struct SamplingArgs {
    /// Divides the logits; 0 always takes the likeliest token.
    #[arg(long)]
    pub(crate) temperature: Option<f32>,
    /// Draw from this many likeliest tokens only; 0 is off.
    #[arg(long)]
    pub(crate) top_k: Option<usize>,
    /// Draw from the likeliest tokens that together have this probability; 1 is off.
    #[arg(long)]
    pub(crate) top_p: Option<f32>,
    /// Drop tokens below this fraction of the likeliest one's probability; 0 is off.
    #[arg(long)]
    pub(crate) min_p: Option<f32>,
    /// Make tokens of prompt and answer less likely; 1 is off.
    #[arg(long)]
    pub(crate) repetition_penalty: Option<f32>,
    /// Subtract from the logit of every token in the answer; 0 is off.
    #[arg(long)]
    pub(crate) presence_penalty: Option<f32>,
    /// Subtract from the logit of a token for each time it is in the answer; 0 is off.
    #[arg(long)]
    pub(crate) frequency_penalty: Option<f32>,
    /// Seed of the draws.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// The most tokens of an answer.
    #[arg(long, default_value_t = 256)]
    pub(crate) max_tokens: usize,
    /// End the answer before this text; may be repeated.
    #[arg(long)]
    pub(crate) stop: Vec<String>,
}

#[derive(Group)]
pub(crate) struct Generate {
    /// The model directory.
    #[arg(long)]
    pub(crate) model: PathBuf,
    /// The text to continue; without it, standard input.
    #[arg(long)]
    pub(crate) prompt: Option<String>,
    #[command(flatten)]
    pub(crate) compute: Compute,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    /// Print one JSON object with text, ids and the reason of the end, instead of streaming text.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Group)]
pub(crate) struct Chat {
    /// The model directory. With --url the model's name; the server's first one without it.
    #[arg(long, required_unless_present = "url")]
    pub(crate) model: Option<PathBuf>,
    /// The server to talk to, such as http://127.0.0.1:8000; it speaks OpenAI's interface.
    #[arg(long, conflicts_with_all = ["dtype", "cache", "expert_memory"])]
    pub(crate) url: Option<String>,
    #[command(flatten)]
    pub(crate) access: Access,
    /// Instructions that come before the conversation.
    #[arg(long)]
    pub(crate) system: Option<String>,
    #[command(flatten)]
    pub(crate) compute: Compute,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
}

#[derive(Group)]
pub(crate) struct Logits {
    /// The model directory.
    #[arg(long)]
    pub(crate) model: PathBuf,
    /// Token ids, separated by commas.
    #[arg(long, value_delimiter = ',', required = true)]
    pub(crate) ids: Vec<u32>,
    /// The safetensors file to write.
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// What the operands of products are rounded to; sums are f32 either way.
    #[arg(long, default_value = "f32")]
    pub(crate) dtype: Dtype,
    /// Also run the MTP layers.
    #[arg(long)]
    pub(crate) mtp: bool,
}

#[derive(Group)]
pub(crate) struct Convert {
    /// The model directory to read.
    #[arg(long)]
    pub(crate) model: PathBuf,
    /// The directory to write; must not hold anything yet.
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Which part is stored in which type, such as experts=q4,rest=fp8.
    #[arg(long, value_name = "PART=TYPE,..")]
    pub(crate) quant: String,
}

#[derive(Group)]
pub(crate) struct Eval {
    /// The model directory.
    #[arg(long)]
    pub(crate) model: PathBuf,
    /// Files of text; may be repeated.
    #[arg(long, required = true, num_args = 1..)]
    pub(crate) text: Vec<PathBuf>,
    /// The key of the text in files of JSON lines.
    #[arg(long, default_value = "text")]
    pub(crate) text_key: String,
    /// Tokens of a window, the most that the model sees at once.
    #[arg(long, default_value_t = 1024)]
    pub(crate) context: usize,
    /// Tokens from the start of a window to that of the next; half of the context without it.
    #[arg(long)]
    pub(crate) stride: Option<usize>,
    /// What the operands of products are rounded to; sums are f32 either way.
    #[arg(long)]
    pub(crate) dtype: Option<Dtype>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Group)]
pub(crate) struct Inspect {
    /// A config.json, a directory that has one, or a preset's name.
    pub(crate) model: String,
    /// Sequence length of the attention's FLOPs.
    #[arg(long, default_value_t = 4096)]
    pub(crate) seq_len: u32,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}
