use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args as Group;

use super::Compute;

/// Each option can also be set by the variable that stands behind it; the command line goes first.
#[derive(Group)]
pub(crate) struct Serve {
    /// The model directory.
    #[arg(long, env = "HADAL_MODEL", required_unless_present_any = ["model_dir", "router"], conflicts_with_all = ["model_dir", "router"])]
    pub(crate) model: Option<PathBuf>,
    /// A directory of versions of a model, each in a directory whose name is a number. New ones are loaded, switched to, and
    /// those before them unloaded, without losing a request.
    #[arg(long, env = "HADAL_MODEL_DIR", conflicts_with = "router")]
    pub(crate) model_dir: Option<PathBuf>,
    /// Serve no model, but hand requests to these servers, http://HOST:PORT each: to the one with the fewest under way, and
    /// conversations that begin alike to the same one.
    #[arg(long, env = "HADAL_ROUTER", value_name = "URL", num_args = 1.., value_delimiter = ',', conflicts_with_all = OF_A_MODEL)]
    pub(crate) router: Vec<gateway::Address>,
    /// Which versions are served: latest:N, all, or numbers such as 3,4.
    #[arg(long, env = "HADAL_VERSION_POLICY", default_value = "latest:1", requires = "model_dir")]
    pub(crate) version_policy: server::VersionPolicy,
    /// How often the directory of versions is looked at, in seconds, and how long nothing in a version may have changed before
    /// it is loaded. SIGHUP looks at once.
    #[arg(long, env = "HADAL_POLL_INTERVAL", default_value_t = 5.0)]
    pub(crate) poll_interval: f64,
    /// How long loading a version may take, in seconds, before it is given up.
    #[arg(long, env = "HADAL_LOAD_TIMEOUT", default_value_t = 3600.0)]
    pub(crate) load_timeout: f64,
    /// Names under which the model is asked for; without any, that of its directory.
    #[arg(long, env = "HADAL_SERVED_MODEL_NAME", value_delimiter = ',')]
    pub(crate) served_model_name: Vec<String>,
    /// Answer to any name of a model.
    #[arg(long, env = "HADAL_ACCEPT_ANY_MODEL")]
    pub(crate) accept_any_model: bool,

    /// The address to listen on. Others than this machine's own need keys.
    #[arg(long, env = "HADAL_HOST", default_value = "127.0.0.1")]
    pub(crate) host: IpAddr,
    /// The port to listen on; 0 takes a free one.
    #[arg(long, env = "HADAL_PORT", default_value_t = 8000)]
    pub(crate) port: u16,
    /// A file of keys, TOML with entries [[keys]] of name, sha256, scope (user, metrics) and, if wanted,
    /// requests_per_minute. With it nothing but health and the page's own files is open.
    #[arg(long, env = "HADAL_API_KEY_FILE")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// Listen on other addresses than this machine's own without keys: whoever reaches the port may ask.
    #[arg(long, env = "HADAL_ALLOW_OPEN")]
    pub(crate) allow_open: bool,
    /// A name of this host under which a server without keys answers, beside localhost and addresses; may be repeated.
    #[arg(long, env = "HADAL_ALLOW_HOST", value_delimiter = ',')]
    pub(crate) allow_host: Vec<String>,
    /// Let pages of this origin ask, such as https://example.org; may be repeated.
    #[arg(long, env = "HADAL_CORS_ORIGIN", value_delimiter = ',')]
    pub(crate) cors_origin: Vec<String>,
    /// Do not serve the page.
    #[arg(long, env = "HADAL_NO_UI")]
    pub(crate) no_ui: bool,

    #[command(flatten)]
    pub(crate) compute: Compute,
    /// The longest context in tokens, prompt and answer together; the model's own without it.
    #[arg(long, env = "HADAL_MAX_MODEL_LEN")]
    pub(crate) max_model_len: Option<usize>,
    /// Requests that are answered at the same time.
    #[arg(long, env = "HADAL_MAX_BATCH_SIZE", default_value_t = 32)]
    pub(crate) max_batch_size: usize,
    /// How long an idle engine waits for more requests after the first one, in microseconds.
    #[arg(long, env = "HADAL_BATCH_TIMEOUT_MICROS", default_value_t = 0)]
    pub(crate) batch_timeout_micros: u64,
    /// Requests that may wait, in batches.
    #[arg(long, env = "HADAL_MAX_ENQUEUED_BATCHES", default_value_t = 16)]
    pub(crate) max_enqueued_batches: usize,
    /// Prompt tokens of all requests that wait.
    #[arg(long, env = "HADAL_MAX_ENQUEUED_TOKENS", default_value_t = 1 << 20)]
    pub(crate) max_enqueued_tokens: usize,
    /// Prompt tokens that are run over between two tokens of the answers beside them.
    #[arg(long, env = "HADAL_PREFILL_TOKENS", default_value_t = 512)]
    pub(crate) prefill_tokens: usize,
    /// Memory for latents, in GiB.
    #[arg(long, env = "HADAL_KV_MEMORY", default_value_t = 4.0)]
    pub(crate) kv_memory: f64,
    /// A directory in which the beginnings of prompts outlive the program.
    #[arg(long, env = "HADAL_KV_DISK")]
    pub(crate) kv_disk: Option<PathBuf>,
    /// How large that may become, in GiB, for each version of the model.
    #[arg(long, env = "HADAL_KV_DISK_QUOTA", default_value_t = 16.0, requires = "kv_disk")]
    pub(crate) kv_disk_quota: f64,
    /// Whether the MTP layer proposes tokens: auto measures whether that pays.
    #[arg(long, env = "HADAL_MTP", default_value = "auto")]
    pub(crate) mtp: MtpMode,
    /// Seed of requests that bring none; random without it.
    #[arg(long, env = "HADAL_SEED")]
    pub(crate) seed: Option<u64>,

    /// HTTP connections at the same time.
    #[arg(long, env = "HADAL_MAX_CONNECTIONS", default_value_t = 2048)]
    pub(crate) max_connections: usize,
    /// HTTP requests that are read, wait or are answered at the same time.
    #[arg(long, env = "HADAL_MAX_REQUESTS", default_value_t = 1024)]
    pub(crate) max_requests: usize,
    /// The largest body of a request, in MiB.
    #[arg(long, env = "HADAL_MAX_BODY", default_value_t = 32)]
    pub(crate) max_body: usize,
    /// How long the headers of a request may take to arrive, in seconds, and how long a connection may wait for its next one.
    #[arg(long, env = "HADAL_HEADER_TIMEOUT", default_value_t = 30.0)]
    pub(crate) header_timeout: f64,
    /// How long the body of a request may take to arrive, in seconds.
    #[arg(long, env = "HADAL_BODY_TIMEOUT", default_value_t = 30.0)]
    pub(crate) body_timeout: f64,
    /// How long a client may leave a piece of an answer unread, in seconds, before its connection is given up.
    #[arg(long, env = "HADAL_WRITE_TIMEOUT", default_value_t = 30.0)]
    pub(crate) write_timeout: f64,
    /// How long an answer may take, in seconds.
    #[arg(long, env = "HADAL_REQUEST_TIMEOUT", default_value_t = 600.0)]
    pub(crate) request_timeout: f64,
    /// How long a step of the engine may take, in seconds, before /livez says that the server hangs.
    #[arg(long, env = "HADAL_STEP_TIMEOUT", default_value_t = 120.0)]
    pub(crate) step_timeout: f64,
    /// When asked to end: how long /readyz says no, in seconds, while requests are still taken.
    #[arg(long, env = "HADAL_DRAIN_DELAY", default_value_t = 0.0)]
    pub(crate) drain_delay: f64,
    /// When asked to end: how long the requests under way may still take, in seconds.
    #[arg(long, env = "HADAL_DRAIN_TIMEOUT", default_value_t = 120.0)]
    pub(crate) drain_timeout: f64,

    /// Other names for the numbers under /metrics.
    #[arg(long, env = "HADAL_METRICS_COMPAT", default_value = "vllm")]
    pub(crate) metrics_compat: MetricsCompat,
    /// Count the tokens of each expert, hadal_expert_tokens_total: as many series as the model has experts.
    #[arg(long, env = "HADAL_EXPERT_METRICS")]
    pub(crate) expert_metrics: bool,
    /// How the log is written, one line per request, on standard error.
    #[arg(long, env = "HADAL_LOG", default_value = "text")]
    pub(crate) log: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum MtpMode {
    Auto,
    On,
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum MetricsCompat {
    /// Those of vLLM beside ours.
    Vllm,
    /// None.
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
    Off,
}

/// What a server without a model has no use for: whoever gives it one of these expects what will not happen.
const OF_A_MODEL: [&str; 28] = [
    "version_policy",
    "poll_interval",
    "load_timeout",
    "served_model_name",
    "accept_any_model",
    "cors_origin",
    "no_ui",
    "dtype",
    "cache",
    "expert_memory",
    "max_model_len",
    "max_batch_size",
    "batch_timeout_micros",
    "max_enqueued_batches",
    "max_enqueued_tokens",
    "prefill_tokens",
    "kv_memory",
    "kv_disk",
    "kv_disk_quota",
    "mtp",
    "seed",
    "max_requests",
    "request_timeout",
    "step_timeout",
    "metrics_compat",
    "expert_metrics",
    "model",
    "model_dir",
];

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command};

    /// What works with a model and without.
    const OF_BOTH: [&str; 13] = [
        "host",
        "port",
        "api_key_file",
        "allow_open",
        "allow_host",
        "max_connections",
        "max_body",
        "header_timeout",
        "body_timeout",
        "write_timeout",
        "drain_delay",
        "drain_timeout",
        "log",
    ];

    #[test]
    fn every_flag_works_with_a_router_or_is_refused_beside_it() {
        let command = super::Serve::augment_args(Command::new("serve"));
        let ids = command.get_arguments().map(|arg| arg.get_id().as_str()).filter(|id| *id != "router");
        for id in ids {
            let (works, is_refused) = (OF_BOTH.contains(&id), super::OF_A_MODEL.contains(&id));
            assert!(works != is_refused, "--{id} must stand in one of the two lists");
        }
    }
}
