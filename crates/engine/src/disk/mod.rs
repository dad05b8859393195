//! Blocks of latents on disk, so that prompts which begin alike share them across restarts.
//!
//! A block is 64 tokens of a prompt in all layers, and a file of its own: 352 bytes and, for DeepSeek-V3 in bf16,
//! 61 layers × 64 tokens × (512 + 64) numbers × 2 bytes = 4,497,408 bytes, which is 70,272 bytes a token. A prompt of
//! 65,536 tokens is 1,024 files and 4.6 GB, read in seconds where running over it takes minutes. Moonlight has 27 layers of
//! the same width, 1,990,656 bytes a block; the preset `small`, 8 layers of 128 + 32 numbers, 163,840.
//!
//! Blocks are written when they are first made, by a thread of its own from a queue that ends: what does not fit is left
//! out and tried again when it is used, when it leaves memory, and at the end. They are read one by one as a prompt needs
//! them. Those of prompts shorter than [`DiskOptions::min_prompt_tokens`] are not written: they are soon computed again,
//! and many of them must not push out the one that is long. What is read is what was written, bit for bit, or it is not
//! taken.

mod index;
mod key;
mod segment;
mod store;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use model::{CacheBlock, Model};

use self::index::Index;
pub(crate) use self::key::Name;
use self::key::{Key, names};
use self::segment::{Damage, HEADER, decode, encode};
use self::store::Store;

/// Where blocks are kept, and how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskOptions {
    /// A directory for this alone. It is made if there is none; one process at a time may have it.
    pub dir: PathBuf,
    /// The most bytes that all files have together, those of other models included.
    pub quota_bytes: u64,
    /// What tells the model from all others: a hash of its weights, or of whatever changes with them. Blocks are found again
    /// only under the same one. The engine adds what it sees itself: how weights are stored, what products round to, how the
    /// cache is kept, and its own version.
    pub model: [u8; 32],
    /// Prompts of fewer tokens are not written.
    pub min_prompt_tokens: usize,
    /// Memory for blocks that wait to be written, beside [`crate::Limits::cache_bytes`]; a block at least.
    pub queue_bytes: u64,
    /// What is read between two tokens of the answers beside, a block at least: more is faster for the one that reads, less
    /// lets the others flow more evenly.
    pub step_bytes: u64,
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// A file operation failed.
    #[error("cannot use the directory for the cache on disk")]
    Io(#[from] std::io::Error),
    /// Another process uses it.
    #[error("the cache on disk in {dir} is in use by another process; end that one or give another directory")]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// Not even one block fits.
    #[error("the cache on disk may have {quota_bytes} bytes, but one block of 64 tokens has {block_bytes}; allow more")]
    Quota {
        /// What was given.
        quota_bytes: u64,
        /// What is needed.
        block_bytes: u64,
    },
}

/// What a cache on disk holds, and what has happened to it since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskStats {
    /// The most bytes that its files may have.
    pub quota_bytes: u64,
    /// The bytes that they have.
    pub bytes: u64,
    /// How many there are.
    pub blocks: usize,
    /// Blocks that were read and taken.
    pub hits: u64,
    /// Their bytes.
    pub read_bytes: u64,
    /// Blocks that were written.
    pub writes: u64,
    /// Their bytes.
    pub written_bytes: u64,
    /// Blocks that made room for others.
    pub evictions: u64,
    /// Files that were not what they should be, or could not be read.
    pub damaged: u64,
    /// Times that a block was not written because too many waited, or because there was no room but at the expense of its
    /// own prompt or of what was used later.
    pub skipped: u64,
    /// Times that writing a block failed.
    pub failed: u64,
}

/// Blocks of latents in a directory. Dropping it writes what waits.
pub struct DiskCache {
    shared: Arc<Shared>,
    options: DiskOptions,
    identity: Key,
    tasks: Option<SyncSender<Task>>,
    writer: Option<JoinHandle<()>>,
}

/// A block that is worth a file.
pub(crate) struct Block {
    pub(crate) name: Name,
    /// Whether it is the first of its prompt, before which there is none.
    pub(crate) is_first: bool,
    pub(crate) tokens: Box<[u32]>,
    pub(crate) latents: CacheBlock,
}

/// Whose place a block may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It is used now: those that were used longest ago make room for it.
    Used,
    /// Nobody has used it for a while, or it made room itself: it takes only what is free.
    Late,
}

/// What the thread that writes does.
enum Task {
    Save(Block, Claim),
    /// A block is used.
    Touch(Name),
    /// Somebody waits until all tasks before this one are done.
    Flush(SyncSender<()>),
}

/// What the engine's thread and the one that writes both see.
struct Shared {
    store: Store,
    state: Mutex<State>,
    /// The bytes of the latents of a block.
    latents: usize,
}

struct State {
    index: Index,
    stats: DiskStats,
}

impl DiskOptions {
    /// Options with the usual sizes.
    pub fn new(dir: impl Into<PathBuf>, quota_bytes: u64, model: [u8; 32]) -> Self {
        let (min_prompt_tokens, queue_bytes, step_bytes) = (512, 256 << 20, 64 << 20);
        Self { dir: dir.into(), quota_bytes, model, min_prompt_tokens, queue_bytes, step_bytes }
    }
}

impl DiskCache {
    /// Opens the directory for blocks of `model`. Files beyond the quota leave at once.
    ///
    /// # Errors
    /// When the directory cannot be made, read or written, another process has it, or not even a block fits.
    pub fn open(options: DiskOptions, model: &Model) -> Result<Self, DiskError> {
        let DiskOptions { dir, quota_bytes, .. } = &options;
        let latents = model.cache_block_bytes();
        let block_bytes = (HEADER + latents) as u64;
        if *quota_bytes < block_bytes {
            return Err(DiskError::Quota { quota_bytes: *quota_bytes, block_bytes });
        }
        let Some(store) = Store::open(dir)? else { return Err(DiskError::Locked { dir: dir.clone() }) };
        let mut index = Index::default();
        for file in store.scan()? {
            if index.announce(file.name) {
                index.written(file.name.key, file.bytes);
            } else {
                // The same block behind another parent: not a name that was given here.
                remove(&store, &file.name);
            }
        }
        let stats = DiskStats { quota_bytes: *quota_bytes, ..DiskStats::default() };
        let shared = Arc::new(Shared { store, state: Mutex::new(State { index, stats }), latents });
        let identity = Key::of_model(&options.model, model);
        shared.make_room(0, identity);
        let queue = usize::try_from(options.queue_bytes / block_bytes).unwrap_or(usize::MAX).clamp(1, 4096);
        let (tasks, received) = sync_channel(queue);
        let of_thread = shared.clone();
        let writer =
            std::thread::Builder::new().name("latents".into()).spawn(move || of_thread.write_all(&received))?;
        let cache = Self { shared, options, identity, tasks: Some(tasks), writer: Some(writer) };
        let DiskStats { blocks, bytes, quota_bytes, .. } = cache.stats();
        tracing::info!(dir = %cache.options.dir.display(), blocks, bytes, quota_bytes, "a cache on disk was opened");
        Ok(cache)
    }

    /// Removes the directory of a cache that nobody needs any more, and says how many bytes that frees; 0 where there is none,
    /// or where it is in use. What is no file of a cache stays, and the directory with it.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn remove(dir: &Path) -> Result<u64, DiskError> {
        Ok(Store::clear(dir)?)
    }

    /// What it holds, and what has happened to it.
    pub fn stats(&self) -> DiskStats {
        let State { index, stats } = &*self.shared.state();
        DiskStats { bytes: index.bytes(), blocks: index.files(), ..*stats }
    }

    /// Waits until everything that waits is written.
    pub fn flush(&self) {
        let (done, is_done) = sync_channel(1);
        self.send(Task::Flush(done));
        // If the thread is gone, there is nothing to wait for.
        let _ = is_done.recv();
    }

    /// Panics when it was opened for another model.
    pub(crate) fn check(&self, model: &Model) {
        let is_ours = self.identity == Key::of_model(&self.options.model, model);
        assert!(is_ours, "the cache in {} was opened for another model", self.options.dir.display());
    }

    /// What a step may read.
    pub(crate) fn step_bytes(&self) -> u64 {
        self.options.step_bytes.max(1)
    }

    /// The names of the whole blocks of a prompt.
    pub(crate) fn names(&self, salt: u64, prompt: &[u32]) -> Vec<Name> {
        names(self.identity.of_salt(salt), prompt)
    }

    /// Whether a prompt is long enough to be written.
    pub(crate) fn keeps(&self, prompt: &[u32]) -> bool {
        prompt.len() >= self.options.min_prompt_tokens
    }

    /// Whether there is a block, as far as is known.
    pub(crate) fn has(&self, name: &Name) -> bool {
        self.shared.state().index.has(name.key)
    }

    /// The block `name` of `tokens`; none if there is none that is whole.
    pub(crate) fn read(&self, model: &Model, name: &Name, tokens: &[u32]) -> Option<CacheBlock> {
        let Shared { store, latents, .. } = &*self.shared;
        let expected = (HEADER + latents) as u64;
        let read = || -> Result<CacheBlock, Unread> {
            let (file, found) = store.length(name)?;
            if found != expected {
                return Err(Damage::Length { found, expected }.into());
            }
            let bytes = Store::read(file, HEADER + latents)?;
            let bytes = decode(&bytes, name, tokens, *latents)?;
            Ok(model.restore_block(bytes).expect("a block of this model has so many bytes"))
        };
        let read = read();
        let mut state = self.shared.state();
        match read {
            Ok(block) => {
                state.stats.hits += 1;
                state.stats.read_bytes += expected;
                Some(block)
            }
            // It made room for another one meanwhile.
            Err(Unread::Io(error)) if error.kind() == ErrorKind::NotFound => {
                state.lose(name);
                None
            }
            Err(error) => {
                state.stats.damaged += 1;
                state.lose(name);
                drop(state);
                tracing::warn!(block = %name, %error, "a block on disk is damaged; it is removed and computed again");
                remove(store, name);
                None
            }
        }
    }

    /// Notes that a block is used now, and with it all before it, also for the next process.
    pub(crate) fn touch(&self, name: &Name) {
        self.shared.state().index.touch(name.key);
        if let Some(tasks) = &self.tasks {
            // What is lost is how recent a block is, if there is no room to say so.
            drop(tasks.try_send(Task::Touch(*name)));
        }
    }

    /// Has a block written that is not yet, if there is room in the queue.
    pub(crate) fn offer(&self, block: Block, claim: Claim) {
        let (name, Some(tasks)) = (block.name, &self.tasks) else { return };
        let mut state = self.shared.state();
        if state.index.announce(name)
            && let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = tasks.try_send(Task::Save(block, claim))
        {
            state.index.forget(name.key);
            state.stats.skipped += 1;
        }
    }

    /// Has a block written that is not yet, if there is free room, and waits for the queue.
    pub(crate) fn save(&self, block: Block) {
        let is_new = self.shared.state().index.announce(block.name);
        if is_new {
            self.send(Task::Save(block, Claim::Late));
        }
    }

    fn send(&self, task: Task) {
        if let Some(tasks) = &self.tasks {
            // The thread ends only after this sender has.
            drop(tasks.send(task));
        }
    }
}

impl State {
    /// Forgets the file of a block. One that waits to be written is the writer's.
    fn lose(&mut self, name: &Name) {
        if self.index.has(name.key) {
            self.index.forget(name.key);
        }
    }
}

impl Drop for DiskCache {
    fn drop(&mut self) {
        self.tasks = None;
        if let Some(writer) = self.writer.take() {
            // A panic of the thread has been reported where it happened.
            drop(writer.join());
        }
    }
}

impl Shared {
    /// What is behind the lock is always whole: nobody panics while he writes it.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread that writes.
    fn write_all(&self, tasks: &Receiver<Task>) {
        let mut is_failing = false;
        for task in tasks {
            match task {
                Task::Save(block, claim) => self.write(&block, claim, &mut is_failing),
                Task::Touch(name) => {
                    if let Err(error) = self.store.touch(&name) {
                        tracing::debug!(%error, "cannot note when a block on disk was used");
                    }
                }
                // Whoever waited may have gone.
                Task::Flush(done) => drop(done.send(())),
            }
        }
    }

    fn write(&self, block: &Block, claim: Claim, is_failing: &mut bool) {
        let Block { name, is_first, tokens, latents } = block;
        let length = (HEADER + self.latents) as u64;
        // Without the one before it, it is of no use yet: the end of a prompt must not push out its beginning.
        let is_behind = *is_first || self.state().index.has(name.parent);
        let has_room = match claim {
            Claim::Used if is_behind => self.make_room(length, name.parent),
            _ => self.has_room(length),
        };
        if !has_room {
            let mut state = self.state();
            state.index.forget(name.key);
            state.stats.skipped += 1;
            return;
        }
        let bytes = encode(name, tokens, |bytes| latents.write_to(bytes));
        let written = self.store.write(name, &bytes);
        let mut state = self.state();
        match written {
            Ok(()) => {
                state.index.written(name.key, length);
                state.stats.writes += 1;
                state.stats.written_bytes += length;
                *is_failing = false;
            }
            Err(error) => {
                state.index.forget(name.key);
                state.stats.failed += 1;
                // A full disk fails at every block, and is told once.
                if !std::mem::replace(is_failing, true) {
                    tracing::warn!(%error, "cannot write blocks to the cache on disk; answers do not depend on it");
                }
            }
        }
    }

    fn has_room(&self, more: u64) -> bool {
        let State { index, stats } = &*self.state();
        index.bytes() + more <= stats.quota_bytes
    }

    /// Removes files until so many bytes more are within the quota, but not the block `except`; whether that was possible.
    fn make_room(&self, more: u64, except: Key) -> bool {
        while !self.has_room(more) {
            let mut state = self.state();
            let Some(name) = state.index.evict(except) else { return false };
            state.stats.evictions += 1;
            drop(state);
            remove(&self.store, &name);
        }
        true
    }
}

/// Why a block was not read.
#[derive(Debug, thiserror::Error)]
enum Unread {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Damage(#[from] Damage),
}

/// Removes a file of which nothing is known any more. If that fails, it is found again at the next start.
fn remove(store: &Store, name: &Name) {
    match store.remove(name) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            tracing::warn!(%error, "cannot remove a block from the cache on disk");
        }
        _ => {}
    }
}
