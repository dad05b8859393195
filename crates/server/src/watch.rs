//! The thread that looks for versions: it has those loaded that are wanted, one after the other, and lets go of those that
//! are not.
//!
//! A version that cannot be loaded takes nothing away: those that serve go on. It is tried again when its directory changes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use crate::found::{Mark, Seen, numbered};
use crate::leftovers;
use crate::load::{Load, Means};
use crate::manifest::Manifest;
use crate::options::{Options, Source};
use crate::progress::Progress;
use crate::served::Served;
use crate::versions::{LoadError, State, Versions};

/// What the thread is told.
pub(crate) enum Message {
    /// Somebody says that what there is now is whole, and to be looked at.
    Look,
    /// A load has ended: which one it was, and how.
    Loaded(Arc<Progress>, Result<Arc<Served>, LoadError>),
    /// Nobody needs it any more.
    Stop,
}

/// Where versions come from.
pub(crate) struct Watch {
    means: Arc<Means>,
    options: Arc<Options>,
    versions: Arc<Versions>,
    inbox: Receiver<Message>,
    outbox: Sender<Message>,
    seen: BTreeMap<u64, Seen>,
    /// What was found in the directory of a version that could not be loaded, so that it is tried again once that changes.
    failed: BTreeMap<u64, Mark>,
    under_way: Option<Load>,
    looked: Option<Instant>,
}

impl Watch {
    /// A watch, and where it is told things.
    pub(crate) fn new(means: Means, versions: Arc<Versions>) -> (Self, Sender<Message>) {
        let (outbox, inbox) = channel();
        let watch = Self {
            options: means.options.clone(),
            means: Arc::new(means),
            versions,
            inbox,
            outbox: outbox.clone(),
            seen: BTreeMap::new(),
            failed: BTreeMap::new(),
            under_way: None,
            looked: None,
        };
        (watch, outbox)
    }

    /// Looks again and again, until it is told to stop. It does not wait for a load that is under way then.
    pub(crate) fn run(mut self) {
        let _alarm = Alarm(self.versions.clone());
        self.look();
        loop {
            match self.inbox.recv_timeout(self.rest()) {
                Ok(Message::Look) => self.look_as_told(),
                Ok(Message::Loaded(progress, end)) => self.take(&progress, end),
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    if self.load_left().is_zero() {
                        self.give_up();
                    }
                    if self.poll_left().is_zero() {
                        self.look();
                    }
                }
            }
        }
    }

    /// How long there is nothing to do unless it is told something.
    fn rest(&self) -> Duration {
        self.load_left().min(self.poll_left())
    }

    fn load_left(&self) -> Duration {
        let left = |load: &Load| self.options.load_timeout.saturating_sub(load.progress.elapsed());
        self.under_way.as_ref().map_or(Duration::MAX, left)
    }

    fn poll_left(&self) -> Duration {
        match (&self.options.source, self.looked) {
            // There is nothing else to find.
            (Source::Model(_), Some(_)) => Duration::MAX,
            (_, None) => Duration::ZERO,
            (_, Some(looked)) => self.options.poll_interval.saturating_sub(looked.elapsed()),
        }
    }

    /// Looks because somebody asks for it, who has nothing more to add to the directories that are there. What could not be
    /// loaded is tried again: the reason may have been elsewhere.
    fn look_as_told(&mut self) {
        if let Source::Model(dir) = &self.options.source {
            tracing::warn!("asked to look for versions, but there is only {}; --model-dir has versions", dir.display());
            return;
        }
        tracing::info!("asked to look for versions");
        self.failed.clear();
        self.look();
        self.seen.values_mut().for_each(Seen::trust);
        self.look();
    }

    /// Looks once, and lets it be known for how long.
    fn look(&mut self) {
        self.versions.set_looking(true);
        self.look_once();
        self.versions.set_looking(false);
    }

    /// Looks at what there is, has loaded what is wanted, and lets go of what is not.
    fn look_once(&mut self) {
        let is_first = self.looked.replace(Instant::now()).is_none();
        let (found, wanted) = match &self.options.source {
            Source::Model(dir) => {
                let found = BTreeMap::from([(1, dir.clone())]);
                (found.clone(), found)
            }
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
                let is_wanted = |version: &u64| wanted.contains(version);
                (found.clone(), found.into_iter().filter(|(version, _)| is_wanted(version)).collect())
            }
        };
        self.seen.retain(|version, _| wanted.contains_key(version));
        self.failed.retain(|version, _| found.contains_key(version));
        for (version, dir) in &wanted {
            let (mark, rest) = (Mark::of(dir), self.options.poll_interval);
            self.seen
                .entry(*version)
                .and_modify(|seen| seen.again(mark.clone()))
                .or_insert_with(|| Seen::new(mark, rest, is_first));
        }
        // They are loaded one after the other: each takes all the disk and all the cores.
        for (version, dir) in &wanted {
            if self.under_way.is_none() {
                self.consider(*version, dir);
            }
        }
        self.let_go(&wanted);
        self.forget(&found);
        if let (Some(disk), Source::Versions(..)) = (&self.options.disk, &self.options.source) {
            let states = self.versions.states();
            let is_held = |version| states.get(&version).is_some_and(|state| !matches!(state, State::End(_)));
            leftovers::remove(&disk.dir, |version| wanted.contains_key(&version) || is_held(version));
        }
    }

    /// Has a version loaded, if it is not yet and is whole.
    fn consider(&mut self, version: u64, dir: &Path) {
        let Some(seen) = self.seen.get(&version) else { return };
        match self.versions.states().get(&version) {
            Some(State::Available(_) | State::Loading(_) | State::Unloading(_)) => return,
            Some(State::End(Some(_))) if self.failed.get(&version) == Some(seen.mark()) => return,
            Some(State::End(_)) | None => {}
        }
        let mark = seen.mark().clone();
        let is_watched = matches!(self.options.source, Source::Versions(..));
        let manifest = if is_watched { Manifest::read(dir) } else { Ok(None) };
        let is_settled = !is_watched || seen.is_settled(self.options.poll_interval);
        let manifest = match manifest {
            Ok(Some(manifest)) => {
                // Its manifest is written last, so there is nothing to wait for; but who was wrong once may be still.
                let is_believed = is_settled || !self.failed.contains_key(&version);
                match manifest.missing(dir) {
                    None if is_believed => Some(manifest),
                    Some(missing) if is_settled => return self.refuse(version, dir, mark, LoadError(missing)),
                    _ => return,
                }
            }
            Ok(None) if is_settled => None,
            Err(error) if is_settled => return self.refuse(version, dir, mark, error),
            Ok(None) | Err(_) => return,
        };
        tracing::info!(version, "loading {}", dir.display());
        let outbox = self.outbox.clone();
        // Which of the loads it was is known by its progress, which this thread hands on when the load has begun.
        let (name, named) = channel();
        let done = move |end| {
            if let Ok(progress) = named.recv() {
                // Nobody is there any more at the end of the program.
                outbox.send(Message::Loaded(progress, end)).ok();
            }
        };
        match Load::begin(&self.means, version, dir, mark.clone(), manifest, done) {
            Ok(load) => {
                name.send(load.progress.clone()).ok();
                self.versions.set(version, State::Loading(load.progress.clone()));
                self.under_way = Some(load);
            }
            Err(error) => self.refuse(version, dir, mark, LoadError(format!("starting a thread to load it: {error}"))),
        }
    }

    /// Puts a version into service that was loaded, or says why it cannot be.
    fn take(&mut self, progress: &Arc<Progress>, end: Result<Arc<Served>, LoadError>) {
        let is_it = |load: &mut Load| Arc::ptr_eq(&load.progress, progress);
        // One that was given up has been spoken of already.
        let Some(load) = self.under_way.take_if(is_it) else { return };
        let has_changed = matches!(self.options.source, Source::Versions(..)) && Mark::of(&load.dir) != load.mark;
        let end = match end {
            Ok(_) if has_changed => Err(LoadError("its files changed while they were read".to_owned())),
            end => end,
        };
        match end {
            Ok(served) => {
                tracing::info!(version = load.version, "serving after {:.1?}", progress.elapsed());
                self.failed.remove(&load.version);
                self.versions.set(load.version, State::Available(served));
            }
            Err(error) => self.refuse(load.version, &load.dir, load.mark.clone(), error),
        }
        // The next one may be waiting, and what it replaces.
        if matches!(self.options.source, Source::Versions(..)) {
            self.look();
        }
    }

    /// Stops waiting for a load that takes too long.
    fn give_up(&mut self) {
        let Some(load) = self.under_way.take() else { return };
        let limit = self.options.load_timeout;
        let error = format!(
            "it was not loaded within {limit:.1?} and is given up, {}; --load-timeout allows more",
            load.progress
        );
        self.refuse(load.version, &load.dir, load.mark.clone(), LoadError(error));
    }

    /// Notes that a version cannot be served as it is.
    fn refuse(&mut self, version: u64, dir: &Path, mark: Mark, error: LoadError) {
        tracing::error!(version, "cannot serve {}: {error}", dir.display());
        self.failed.insert(version, mark);
        self.versions.set(version, State::End(Some(error)));
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

    /// Forgets versions that have ended and whose directory is gone, so that the table does not grow with every version that
    /// there ever was.
    fn forget(&self, found: &BTreeMap<u64, PathBuf>) {
        for (version, state) in self.versions.states() {
            if matches!(state, State::End(_)) && !found.contains_key(&version) {
                tracing::info!(version, "its directory is gone, it is forgotten");
                self.versions.forget(version);
            }
        }
    }
}

/// Notes when the thread that looks for versions dies: nobody else would notice.
struct Alarm(Arc<Versions>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.unwatch();
        }
    }
}

#[cfg(test)]
mod tests;
