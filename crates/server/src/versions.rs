//! Versions of the model, and what has become of each: what requests choose from.
//!
//! Requests hold the version that answers them, so a version ends when its last request does. `watch` looks for versions,
//! `load` brings them into service.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use axum::http::StatusCode;

use crate::error::ApiError;
use crate::metrics::{Told, Version};
use crate::options::Options;
use crate::progress::Progress;
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
    Loading(Arc<Progress>),
    Available(Arc<Served>),
    /// It takes no requests; those it has go on.
    Unloading(Arc<Served>),
    End(Option<LoadError>),
}

impl State {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Loading(_) => "LOADING",
            Self::Available(_) => "AVAILABLE",
            Self::Unloading(_) => "UNLOADING",
            Self::End(_) => "END",
        }
    }
}

/// All versions that there are, and those that had a directory and still have it.
pub(crate) struct Versions {
    states: RwLock<BTreeMap<u64, State>>,
    /// Whether the thread that looks for them has died.
    unwatched: AtomicBool,
    /// Since when it has been looking; nothing while it waits.
    looking: Mutex<Option<Instant>>,
}

impl Versions {
    pub(crate) fn new() -> Self {
        Self { states: RwLock::default(), unwatched: AtomicBool::new(false), looking: Mutex::default() }
    }

    pub(crate) fn states(&self) -> BTreeMap<u64, State> {
        self.states.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set(&self, version: u64, state: State) {
        self.states.write().unwrap_or_else(PoisonError::into_inner).insert(version, state);
    }

    pub(crate) fn forget(&self, version: u64) {
        self.states.write().unwrap_or_else(PoisonError::into_inner).remove(&version);
    }

    /// The version that is being loaded, and how far it is.
    pub(crate) fn loading(&self) -> Option<(u64, Arc<Progress>)> {
        let states = self.states.read().unwrap_or_else(PoisonError::into_inner);
        states.iter().find_map(|(version, state)| match state {
            State::Loading(progress) => Some((*version, progress.clone())),
            _ => None,
        })
    }

    /// Notes whether somebody begins or ends to look for versions.
    pub(crate) fn set_looking(&self, looking: bool) {
        *self.looking.lock().unwrap_or_else(PoisonError::into_inner) = looking.then(Instant::now);
    }

    /// How long somebody has been looking for versions, which no file system that answers lets take long.
    pub(crate) fn looking(&self) -> Option<Duration> {
        self.looking.lock().unwrap_or_else(PoisonError::into_inner).map(|since| since.elapsed())
    }

    /// Notes that nobody looks for versions any more, though somebody should.
    pub(crate) fn unwatch(&self) {
        self.unwatched.store(true, Ordering::Release);
    }

    /// Whether the thread that looks for versions has died, which is a fault of the program.
    pub(crate) fn is_unwatched(&self) -> bool {
        self.unwatched.load(Ordering::Acquire)
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
        self.all().for_each(|served| served.engine.drain());
    }

    /// Ends the engines, with what they are at.
    pub(crate) fn stop(&self) {
        self.all().for_each(|served| served.engine.stop());
    }

    fn all(&self) -> impl Iterator<Item = Arc<Served>> {
        self.states().into_values().filter_map(|state| match state {
            State::Available(served) | State::Unloading(served) => Some(served),
            _ => None,
        })
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
