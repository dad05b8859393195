//! How a server is to behave.

use std::path::PathBuf;
use std::time::Duration;

/// What a server serves and what it puts up with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the model lies.
    pub source: Source,
    /// Names under which it is asked for; the first one is its own.
    pub names: Vec<String>,
    /// Whether it answers to any name.
    pub accept_any_name: bool,
    /// The longest context; the model's own, if that is shorter or nothing is said.
    pub max_model_len: Option<usize>,
    /// What the engine takes on.
    pub engine: engine::Limits,
    /// Where beginnings of prompts outlive the program.
    pub disk: Option<Disk>,
    /// Bytes of a request's body.
    pub max_body_bytes: usize,
    /// How long a body may take to arrive.
    pub body_timeout: Duration,
    /// How long an answer may take.
    pub request_timeout: Duration,
    /// Requests that are answered or wait at the same time, of all kinds.
    pub max_requests: usize,
    /// How long a step of the engine may take before the program says that it is not alive.
    pub step_timeout: Duration,
    /// Seed of requests that bring none; random without it.
    pub seed: Option<u64>,
    /// Whether the tokens of each expert are among the numbers: as many of them as the model has experts.
    pub expert_metrics: bool,
    /// Whether numbers also stand under vLLM's names.
    pub vllm_metrics: bool,
    /// Whether the page is served.
    pub page: bool,
    /// Names of hosts, beside IP addresses and `localhost`, under which a server without keys may be asked.
    pub hosts: Vec<String>,
    /// Origins of other pages that may ask.
    pub cors_origins: Vec<String>,
    /// How often a directory of versions is looked at, and how long the files of a version have to rest before it counts.
    pub poll_interval: Duration,
    /// How long loading a version may take.
    pub load_timeout: Duration,
}

/// A cache on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// A directory for it alone. Each version of a model has its own in there.
    pub dir: PathBuf,
    /// The most bytes of a version's files.
    pub quota_bytes: u64,
}

/// Where models lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// One model directory.
    Model(PathBuf),
    /// A directory of versions, each in a directory that is a number, as TensorFlow Serving has it.
    Versions(PathBuf, VersionPolicy),
}

/// Which versions are served, as TensorFlow Serving's `model_version_policy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VersionPolicy {
    /// The newest so many.
    Latest(usize),
    /// Every one.
    All,
    /// These.
    Specific(Vec<u64>),
}

impl Default for Options {
    fn default() -> Self {
        Self {
            source: Source::Model(PathBuf::new()),
            names: vec!["hadal".to_owned()],
            accept_any_name: false,
            max_model_len: None,
            engine: engine::Limits::default(),
            disk: None,
            max_body_bytes: 32 << 20,
            body_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_mins(10),
            max_requests: 1024,
            step_timeout: Duration::from_mins(2),
            seed: None,
            expert_metrics: false,
            vllm_metrics: true,
            page: true,
            hosts: Vec::new(),
            cors_origins: Vec::new(),
            poll_interval: Duration::from_secs(5),
            load_timeout: Duration::from_hours(1),
        }
    }
}

impl std::str::FromStr for VersionPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no version policy; say latest:N, all, or numbers such as 3,4");
        match text.split_once(':') {
            _ if text == "all" => Ok(Self::All),
            _ if text == "latest" => Ok(Self::Latest(1)),
            Some(("latest", n)) => match n.parse() {
                Ok(n) if n > 0 => Ok(Self::Latest(n)),
                _ => Err(wrong()),
            },
            Some(_) => Err(wrong()),
            None => {
                let list: Result<Vec<u64>, _> = text.split(',').map(|part| part.trim().parse()).collect();
                list.map(Self::Specific).map_err(|_| wrong())
            }
        }
    }
}

impl VersionPolicy {
    /// Those of `versions`, which rise, that it wants.
    pub(crate) fn wanted(&self, versions: &[u64]) -> Vec<u64> {
        match self {
            Self::All => versions.to_vec(),
            Self::Latest(n) => versions[versions.len().saturating_sub(*n)..].to_vec(),
            Self::Specific(list) => versions.iter().copied().filter(|version| list.contains(version)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_choose_versions() {
        let policy = |text: &str| text.parse::<VersionPolicy>();
        let versions = [1, 2, 5, 9];
        assert_eq!(policy("latest:2").unwrap().wanted(&versions), [5, 9]);
        assert_eq!(policy("latest").unwrap().wanted(&[]), [0; 0]);
        assert_eq!(policy("all").unwrap().wanted(&versions), versions);
        assert_eq!(policy("9, 2,7").unwrap().wanted(&versions), [2, 9]);
        for wrong in ["", "latest:0", "latest:x", "newest:1", "1,b"] {
            assert!(policy(wrong).is_err(), "{wrong}");
        }
    }
}
