//! Versions of the model: looked for, loaded, warmed, switched to, drained and unloaded.
//!
//! Requests hold the version that answers them, so a version ends when its last request does. One that cannot be loaded
//! takes nothing away: those that serve go on.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::http::StatusCode;
use engine::{DiskOptions, Event, Request, Sink};

use crate::error::ApiError;
use crate::metrics::{Told, Version};
use crate::options::{Disk, Options, Source};
use crate::served::{Parts, Served};

/// Reads a model directory.
pub type Loader = Box<dyn Fn(&Path) -> Result<Parts, LoadError> + Send + Sync>;

/// Why a version cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LoadError(pub String);

/// What becomes of a version, under TensorFlow Serving's names.
#[derive(Clone)]
pub(crate) enum State {
    Loading,
    Available(Arc<Served>),
    /// It takes no requests; those it has go on.
    Unloading(Arc<Served>),
    End(Option<LoadError>),
}

impl State {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Loading => "LOADING",
            Self::Available(_) => "AVAILABLE",
            Self::Unloading(_) => "UNLOADING",
            Self::End(_) => "END",
        }
    }
}

/// All versions that were ever seen.
pub(crate) struct Versions {
    states: RwLock<BTreeMap<u64, State>>,
}

impl Versions {
    pub(crate) fn new() -> Self {
        Self { states: RwLock::default() }
    }

    pub(crate) fn states(&self) -> BTreeMap<u64, State> {
        self.states.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, version: u64, state: State) {
        self.states.write().unwrap_or_else(PoisonError::into_inner).insert(version, state);
    }

    /// The newest version that serves.
    pub(crate) fn newest(&self) -> Option<Arc<Served>> {
        let states = self.states.read().unwrap_or_else(PoisonError::into_inner);
        states.values().rev().find_map(|state| match state {
            State::Available(served) => Some(served.clone()),
            _ => None,
        })
    }

    /// The version that serves under this number.
    pub(crate) fn number(&self, version: u64) -> Option<Arc<Served>> {
        match self.states.read().unwrap_or_else(PoisonError::into_inner).get(&version) {
            Some(State::Available(served)) => Some(served.clone()),
            _ => None,
        }
    }

    /// All versions for numbers, with the loads of single experts if `expert_loads`.
    pub(crate) fn told(&self, expert_loads: bool) -> Vec<Version> {
        let of = |(number, state): (u64, State)| {
            let engine = match &state {
                State::Available(served) | State::Unloading(served) => Some(Told::of(&served.engine, expert_loads)),
                _ => None,
            };
            let is_refused = matches!(state, State::End(Some(_)));
            Version { number, state: state.name(), is_refused, engine }
        };
        self.states().into_iter().map(of).collect()
    }

    /// The model that a request names, as `NAME` or `NAME@VERSION`.
    pub(crate) fn find(&self, options: &Options, name: Option<&str>) -> Result<Arc<Served>, ApiError> {
        let loading = || {
            let message = "the model is being loaded; try again when /readyz says so";
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "model_loading", message).with_retry_after(2)
        };
        let Some(name) = name else { return self.newest().ok_or_else(loading) };
        let known = |name: &str| options.names.iter().any(|own| own == name);
        if known(name) {
            return self.newest().ok_or_else(loading);
        }
        let versioned = name.rsplit_once('@').filter(|(name, _)| known(name));
        if let Some(served) = versioned.and_then(|(_, version)| self.number(version.parse().ok()?)) {
            return Ok(served);
        }
        if options.accept_any_name && versioned.is_none() {
            check_name(name)?;
            return self.newest().ok_or_else(loading);
        }
        let shown: String = name.chars().take(128).collect();
        let message = format!("there is no model {shown:?} here; {:?} is", options.names[0]);
        Err(ApiError {
            param: Some("model".into()),
            ..ApiError::new(StatusCode::NOT_FOUND, "model_not_found", message)
        })
    }

    /// Takes no more requests, of any version.
    pub(crate) fn drain(&self) {
        for state in self.states().values() {
            if let State::Available(served) | State::Unloading(served) = state {
                served.engine.drain();
            }
        }
    }
}

/// Any name is as good as ours, but it stands in the log and in every chunk of the answer.
fn check_name(name: &str) -> Result<(), ApiError> {
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"._/@:-".contains(&byte);
    if (1..=128).contains(&name.len()) && name.bytes().all(is_fine) {
        return Ok(());
    }
    let shown: String = name.chars().take(80).collect();
    let message = format!("model is {shown:?}, but must be 1 to 128 letters, digits or any of . _ / @ : -");
    Err(ApiError::field("invalid_value", "model", message))
}

/// Where versions come from.
pub(crate) struct Watch {
    pub(crate) loader: Loader,
    pub(crate) ctx: tensor::Ctx,
    pub(crate) options: Arc<Options>,
    pub(crate) versions: Arc<Versions>,
    /// What was found in the directory of a version that could not be loaded, so that it is tried again once that changes.
    pub(crate) failed: BTreeMap<u64, Mark>,
}

/// Tells one state of a directory from another: the names, sizes and times of its files. Copies may keep the time of the
/// original's last change, but not that of the entry itself.
pub(crate) type Mark = Vec<(OsString, u64, i64, i64)>;

impl Watch {
    /// Looks once at what there is, loads what is wanted, and lets go of what is not. Takes as long as loading does.
    pub(crate) fn look(&mut self) {
        let found = match &self.options.source {
            Source::Model(dir) => BTreeMap::from([(1, dir.clone())]),
            Source::Versions(dir, policy) => {
                let found = match numbered(dir) {
                    Ok(found) => found,
                    Err(error) => {
                        // What serves goes on; a directory that is away for a moment unloads nothing.
                        tracing::warn!("versions cannot be looked for: {error}");
                        return;
                    }
                };
                let numbers: Vec<u64> = found.keys().copied().collect();
                let wanted = policy.wanted(&numbers);
                found.into_iter().filter(|(version, _)| wanted.contains(version)).collect()
            }
        };
        for (version, dir) in &found {
            self.load(*version, dir);
        }
        self.let_go(&found);
    }

    fn load(&mut self, version: u64, dir: &Path) {
        let mark = mark(dir);
        match self.versions.states().get(&version) {
            Some(State::Available(_) | State::Loading | State::Unloading(_)) => return,
            Some(State::End(Some(_))) if self.failed.get(&version) == Some(&mark) => return,
            Some(State::End(_)) | None => {}
        }
        self.versions.set(version, State::Loading);
        let started = std::time::Instant::now();
        tracing::info!(version, "loading {}", dir.display());
        let state = match self.start(version, dir) {
            Ok(served) => {
                tracing::info!(version, "serving after {:.1?}", started.elapsed());
                self.failed.remove(&version);
                State::Available(served)
            }
            Err(error) => {
                tracing::error!(version, "cannot serve {}: {error}", dir.display());
                self.failed.insert(version, mark);
                State::End(Some(error))
            }
        };
        self.versions.set(version, state);
    }

    /// Loads a version, and lets it say a token before anybody waits for it.
    fn start(&self, version: u64, dir: &Path) -> Result<Arc<Served>, LoadError> {
        let parts = (self.loader)(dir)?;
        let Options { engine, max_model_len, .. } = *self.options;
        let disk = self.options.disk.as_ref().map(|Disk { dir, quota_bytes }| {
            DiskOptions::new(dir.join(format!("version-{version}")), *quota_bytes, parts.identity)
        });
        let served = Served::start(self.ctx.clone(), parts, version, engine, max_model_len, disk)?;
        let (sender, receiver) = std::sync::mpsc::channel();
        let mut request = Request::new(vec![served.tokenizer.special_tokens().bos.unwrap_or(0)], 1);
        request.sampling.temperature = 0.0;
        served
            .engine
            .submit(request, Box::new(Once(sender)))
            .map_err(|error| LoadError(format!("asking for a first token: {error}")))?;
        match receiver.recv() {
            Ok(Ok(())) => Ok(Arc::new(served)),
            Ok(Err(error)) => Err(LoadError(format!("the first token: {error}"))),
            Err(_) => Err(LoadError("the engine ended before its first token".to_owned())),
        }
    }

    /// Unloads versions that are not wanted any more, once one that is serves.
    fn let_go(&self, wanted: &BTreeMap<u64, PathBuf>) {
        let states = self.versions.states();
        let serves = |version: &u64| matches!(states.get(version), Some(State::Available(_)));
        let replaced = wanted.keys().any(serves);
        for (&version, state) in &states {
            match state {
                State::Available(served) if replaced && !wanted.contains_key(&version) => {
                    tracing::info!(version, "draining");
                    self.versions.set(version, State::Unloading(served.clone()));
                }
                // Only the table and this copy of it hold it: no request is left.
                State::Unloading(served) if Arc::strong_count(served) <= 2 => {
                    tracing::info!(version, "unloaded");
                    self.versions.set(version, State::End(None));
                }
                _ => {}
            }
        }
    }

    /// Looks again and again, until `wait` says that it is enough.
    pub(crate) fn run(mut self, mut wait: impl FnMut(Duration) -> bool) {
        let is_single = matches!(self.options.source, Source::Model(_));
        loop {
            self.look();
            if is_single || !wait(self.options.poll_interval) {
                break;
            }
        }
    }
}

/// The directories in `dir` whose names are numbers. Anything else in it is none of ours.
fn numbered(dir: &Path) -> std::io::Result<BTreeMap<u64, PathBuf>> {
    let mut found = BTreeMap::new();
    for entry in fs_err::read_dir(dir)? {
        let entry = entry?;
        let number = entry.file_name().to_str().and_then(|name| name.parse::<u64>().ok());
        let (Some(number), true) = (number, entry.path().join("config.json").is_file()) else { continue };
        found.insert(number, entry.path());
    }
    Ok(found)
}

fn mark(dir: &Path) -> Mark {
    let of = |entry: std::io::Result<fs_err::DirEntry>| {
        let entry = entry.ok()?;
        let metadata = entry.metadata().ok()?;
        Some((entry.file_name(), metadata.len(), metadata.mtime(), metadata.ctime_nsec() ^ metadata.ctime()))
    };
    // What cannot be looked at is no file of a model that could be served.
    let mut mark: Mark = fs_err::read_dir(dir).map_or_else(|_| Vec::new(), |entries| entries.filter_map(of).collect());
    mark.sort();
    mark
}

/// Waits for the end of one answer.
struct Once(std::sync::mpsc::Sender<Result<(), engine::Error>>);

impl Sink for Once {
    fn send(&mut self, event: Event) {
        if let Event::End(end) = event {
            // Whoever has stopped waiting does not need to know.
            self.0.send(end.map(|_| ())).ok();
        }
    }

    fn is_closed(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::check_name;

    #[test]
    fn a_name_is_a_word() {
        let longest = "a".repeat(128);
        for name in ["deepseek-ai/DeepSeek-V3.1", "claude-sonnet-4-5@20250929", "org:model_7", longest.as_str()] {
            assert!(check_name(name).is_ok());
        }
        let longer = "a".repeat(129);
        for name in ["", "a b", "a\nINFO forged", "a\"b", "mödell", "a[1m]", longer.as_str()] {
            let error = check_name(name).unwrap_err();
            assert_eq!((error.code, error.param.as_deref()), ("invalid_value", Some("model")));
            assert!(!error.message.contains('\n'));
        }
    }
}
