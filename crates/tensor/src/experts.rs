//! Experts of a model that is larger than memory: read when they are needed, kept while there is room.
//!
//! The room is a fixed number of bytes for all layers together. The experts that were used longest ago leave first. An
//! expert is read in one piece into memory of its own, by threads that do nothing else, so that many reads are under way
//! at once, which is what a fast disk needs; the page cache is not relied upon.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::storage::{Codes, Matrix, Stored};

/// Reads that may be under way at once.
const READERS: usize = 16;

/// The room that experts share.
pub struct ExpertMemory {
    budget_bytes: u64,
    state: Mutex<State>,
    /// Some read has ended.
    arrived: Condvar,
    reads: Mutex<Sender<Read>>,
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpertReads {
    /// Experts that were there when they were needed.
    pub hits: u64,
    /// Experts that had to be read.
    pub misses: u64,
    /// Bytes read.
    pub bytes: u64,
}

/// An expert could not be read.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot read an expert's weights: {0}")]
pub struct ReadError(#[source] Arc<io::Error>);

/// Which weight, and which expert of it.
type Key = (u64, usize);

#[derive(Default)]
struct State {
    places: HashMap<Key, Place>,
    /// Keys by when they were last asked for.
    by_age: BTreeMap<u64, Key>,
    clock: u64,
    used_bytes: u64,
    reads: ExpertReads,
}

struct Place {
    content: Content,
    bytes: u64,
    asked: u64,
}

enum Content {
    Coming,
    There(Arc<[Matrix]>),
    Failed(io::Error),
}

struct Read {
    memory: Arc<ExpertMemory>,
    key: Key,
    matrices: Vec<Matrix>,
}

/// The experts `[E, N, K]` of one weight, in files.
#[derive(Clone, Debug)]
pub struct Streamed {
    /// Where they lie.
    pub(crate) stored: Stored,
    id: u64,
    memory: Arc<ExpertMemory>,
}

impl ExpertMemory {
    /// Room for `budget_bytes`.
    ///
    /// # Errors
    /// When the threads that read cannot be started.
    pub fn new(budget_bytes: u64) -> io::Result<Arc<Self>> {
        let (sender, receiver) = channel::<Read>();
        let receiver = Arc::new(Mutex::new(receiver));
        for i in 0..READERS {
            let receiver = Arc::clone(&receiver);
            // The threads end when the room, which holds the sender, is gone.
            thread::Builder::new().name(format!("hadal-read-{i}")).spawn(move || {
                loop {
                    let next = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(Read { memory, key, matrices }) = next else { return };
                    let read = matrices.iter().map(Matrix::read).collect::<io::Result<Vec<_>>>();
                    memory.arrive(key, read);
                }
            })?;
        }
        Ok(Arc::new(Self { budget_bytes, state: Mutex::default(), arrived: Condvar::new(), reads: Mutex::new(sender) }))
    }

    /// What has happened so far.
    pub fn reads(&self) -> ExpertReads {
        self.lock().reads
    }

    /// The bytes that experts occupy now.
    pub fn used_bytes(&self) -> u64 {
        self.lock().used_bytes
    }

    /// The room, in bytes.
    pub fn budget_bytes(&self) -> u64 {
        self.budget_bytes
    }

    /// How many experts of `expert_bytes` may be in use at once, when as many are to be read meanwhile.
    pub fn batch(&self, expert_bytes: u64) -> usize {
        (self.budget_bytes / (2 * expert_bytes).max(1)).max(1) as usize
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arrive(&self, key: Key, read: io::Result<Vec<Matrix>>) {
        let mut state = self.lock();
        if let Some(place) = state.places.get_mut(&key) {
            place.content = match read {
                Ok(matrices) => Content::There(matrices.into()),
                Err(error) => Content::Failed(error),
            };
        }
        drop(state);
        self.arrived.notify_all();
    }
}

impl State {
    /// Marks `key` as the last one asked for. False if it has no place.
    fn touch(&mut self, key: Key) -> bool {
        self.clock += 1;
        let Some(place) = self.places.get_mut(&key) else { return false };
        self.by_age.remove(&place.asked);
        place.asked = self.clock;
        self.by_age.insert(self.clock, key);
        true
    }

    /// Lets the oldest go, those in use and on their way excepted, until `bytes` more fit. Only the bookkeeping looks at
    /// ages; it walks past as many as are in use.
    fn make_room(&mut self, bytes: u64, budget: u64) {
        let mut leaving = Vec::new();
        let mut used = self.used_bytes;
        for (&age, key) in &self.by_age {
            if used + bytes <= budget {
                break;
            }
            let place = &self.places[key];
            let free = match &place.content {
                Content::Coming => false,
                Content::There(matrices) => Arc::strong_count(matrices) == 1 && !matrices.iter().any(Matrix::is_in_use),
                Content::Failed(_) => true,
            };
            if free {
                used -= place.bytes;
                leaving.push((age, *key));
            }
        }
        for (age, key) in leaving {
            self.by_age.remove(&age);
            self.places.remove(&key);
        }
        self.used_bytes = used;
    }
}

impl Streamed {
    /// The experts of `stored`, in the room of `memory`.
    pub(crate) fn new(stored: Stored, memory: &Arc<ExpertMemory>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { stored, id: NEXT.fetch_add(1, Ordering::Relaxed), memory: Arc::clone(memory) }
    }

    /// The room.
    pub fn memory(&self) -> &Arc<ExpertMemory> {
        &self.memory
    }

    /// The bytes of the largest expert.
    pub fn expert_bytes(&self) -> u64 {
        let [e, ..] = *self.stored.shape().as_slice() else { return 0 };
        let sizes = (0..e).map(|e| self.stored.group(e).iter().map(Matrix::size_bytes).sum());
        sizes.max().unwrap_or(0)
    }

    /// Begins to read those of `experts` that are not there.
    pub fn request(&self, experts: &[usize]) {
        let mut state = self.memory.lock();
        for &expert in experts {
            let key = (self.id, expert);
            if state.touch(key) {
                continue;
            }
            let matrices = self.stored.group(expert).to_vec();
            let bytes = matrices.iter().map(Matrix::size_bytes).sum();
            state.make_room(bytes, self.memory.budget_bytes);
            let asked = state.clock;
            state.places.insert(key, Place { content: Content::Coming, bytes, asked });
            state.by_age.insert(asked, key);
            state.used_bytes += bytes;
            state.reads.misses += 1;
            state.reads.bytes += bytes;
            let read = Read { memory: Arc::clone(&self.memory), key, matrices };
            let reads = self.memory.reads.lock().unwrap_or_else(PoisonError::into_inner);
            reads.send(read).expect("the readers live as long as the room");
        }
    }

    /// The matrices of `experts`, in memory, one expert after the other. They stay there while the result lives.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn bring(&self, experts: &[usize]) -> Result<Vec<Arc<[Matrix]>>, ReadError> {
        let misses = self.memory.reads().misses;
        self.request(experts);
        let mut state = self.memory.lock();
        state.reads.hits += (experts.len() as u64).saturating_sub(state.reads.misses - misses);
        let mut brought = Vec::with_capacity(experts.len());
        for &expert in experts {
            let key = (self.id, expert);
            loop {
                match state.places.get(&key).map(|place| &place.content) {
                    Some(Content::There(matrices)) => {
                        brought.push(Arc::clone(matrices));
                        break;
                    }
                    Some(Content::Coming) => {
                        state = self.memory.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
                    }
                    Some(Content::Failed(_)) => {
                        let Some(Place { content: Content::Failed(error), bytes, asked }) = state.places.remove(&key)
                        else {
                            unreachable!("it was there a line ago, and the room is locked")
                        };
                        state.by_age.remove(&asked);
                        state.used_bytes -= bytes;
                        return Err(ReadError(Arc::new(error)));
                    }
                    // It had to leave before it was taken, for experts that were asked for later.
                    None => {
                        drop(state);
                        self.request(&[expert]);
                        state = self.memory.lock();
                    }
                }
            }
        }
        Ok(brought)
    }
}

impl Matrix {
    /// The same matrix with its numbers in memory of their own; scales stay where they are.
    fn read(&self) -> io::Result<Self> {
        let codes = match self.codes() {
            Codes::F32(values) => Codes::F32(values.read()?),
            Codes::Bf16(values) => Codes::Bf16(values.read()?),
            Codes::Fp8 { codes, scales } => Codes::Fp8 { codes: codes.read()?, scales: scales.clone() },
            Codes::Int8 { codes, scales } => Codes::Int8 { codes: codes.read()?, scales: scales.clone() },
            Codes::Int4 { codes, scales } => Codes::Int4 { codes: codes.read()?, scales: scales.clone() },
        };
        let [rows, cols] = self.shape();
        Ok(Self::new(rows, cols, codes))
    }
}

impl Matrix {
    /// Whether a clone of its numbers is in use.
    fn is_in_use(&self) -> bool {
        match self.codes() {
            Codes::F32(values) => values.is_shared(),
            Codes::Bf16(values) => values.is_shared(),
            Codes::Fp8 { codes, .. } | Codes::Int8 { codes, .. } | Codes::Int4 { codes, .. } => codes.is_shared(),
        }
    }
}

impl fmt::Debug for ExpertMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExpertMemory({} of {} bytes)", self.used_bytes(), self.budget_bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tempfile::NamedTempFile;

    use super::*;
    use crate::{Mmap, Slab, Storage};

    /// Ten experts of 64 bytes, expert `e` of the byte `e`.
    fn file() -> (NamedTempFile, Stored) {
        let mut file = NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = (0..640).map(|i| (i / 64) as u8).collect();
        file.write_all(&bytes).unwrap();
        let map = Arc::new(Mmap::map(file.as_file()).unwrap());
        let matrices = (0..10)
            .map(|e| {
                let codes = Slab::mapped(&map, 64 * e..64 * (e + 1)).unwrap();
                Matrix::new(1, 64, Codes::Fp8 { codes, scales: Slab::from_vec(vec![1.0]) })
            })
            .collect();
        (file, Stored::new(matrices, [10, 1, 64]))
    }

    fn first_byte(matrices: &Arc<[Matrix]>) -> u8 {
        let Codes::Fp8 { codes, .. } = matrices[0].codes() else { panic!("FP8") };
        assert!(!codes.is_mapped());
        codes[0]
    }

    #[test]
    fn the_oldest_leave_and_the_room_is_kept() {
        let (_file, stored) = file();
        let one = 64 + 4;
        let memory = ExpertMemory::new(4 * one).unwrap();
        let weight = Streamed::new(stored, &memory);
        for batch in [[0, 1], [2, 3], [0, 4], [1, 0]] {
            let brought = weight.bring(&batch).unwrap();
            assert_eq!(brought.iter().map(first_byte).collect::<Vec<_>>(), batch.map(|e| e as u8));
            assert!(memory.used_bytes() <= 4 * one);
        }
        // 4 pushed out 1, the oldest, and 1 pushed out 2.
        assert_eq!(memory.reads(), ExpertReads { hits: 2, misses: 6, bytes: 6 * one });
        assert_eq!(weight.expert_bytes(), one);
        assert_eq!(memory.batch(one), 2);
    }

    #[test]
    fn two_weights_share_the_room_from_many_threads() {
        let ((_a, stored_a), (_b, stored_b)) = (file(), file());
        let memory = ExpertMemory::new(8 * 68).unwrap();
        let weights = [Streamed::new(stored_a, &memory), Streamed::new(stored_b, &memory)];
        thread::scope(|scope| {
            for t in 0..4 {
                let weights = &weights;
                scope.spawn(move || {
                    for i in 0..200 {
                        let e = (7 * i + 3 * t) % 10;
                        assert_eq!(first_byte(&weights[i % 2].bring(&[e]).unwrap()[0]), e as u8);
                    }
                });
            }
        });
        assert!(memory.used_bytes() <= 8 * 68);
    }

    #[test]
    fn a_file_that_was_cut_is_an_error_that_can_be_tried_again() {
        let (file, stored) = file();
        let memory = ExpertMemory::new(1 << 20).unwrap();
        let weight = Streamed::new(stored, &memory);
        file.as_file().set_len(320).unwrap();
        assert!(weight.bring(&[9]).unwrap_err().to_string().contains("cannot read an expert's weights"));
        assert_eq!(memory.used_bytes(), 0);
        assert_eq!(first_byte(&weight.bring(&[1]).unwrap()[0]), 1);
    }

    #[test]
    fn what_is_brought_is_the_weight() {
        let (_file, stored) = file();
        let whole = Storage::Stored(stored.clone()).to_f32();
        let weight = Storage::Stored(stored).streamed(&ExpertMemory::new(1 << 20).unwrap());
        assert_eq!(weight.to_f32(), whole);
        let some = weight.bring(&[3, 7]).unwrap().unwrap().to_f32();
        assert_eq!(some, [&whole[3 * 64..4 * 64], &whole[7 * 64..8 * 64]].concat());
    }

    #[test]
    fn experts_in_use_stay() {
        let (_file, stored) = file();
        let memory = ExpertMemory::new(2 * 68).unwrap();
        let weight = Storage::Stored(stored).streamed(&memory);
        let held = weight.bring(&[0]).unwrap().unwrap();
        for e in 1..5 {
            weight.bring(&[e]).unwrap();
        }
        weight.bring(&[0]).unwrap();
        assert_eq!((memory.reads().hits, memory.used_bytes()), (1, 2 * 68));
        drop(held);
    }
}
