use std::alloc::{Layout, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::{MmapMut, MmapRaw};

use crate::arena::{Arena, Place};

/// The memory of a context's tensors, kept for the tensors that follow.
///
/// A training step takes gigabytes and returns them, again and again; were they the operating system's in between, it
/// would spend the step mapping and zeroing pages.
#[derive(Default)]
pub(crate) struct Pool {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    arena: Arena,
    /// One for each stretch of the arena.
    regions: Vec<Region>,
}

/// What the tensors of a context take of memory, in bytes. Tensors that were made of a `Vec` are not among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferBytes {
    /// Held by tensors now.
    pub live: u64,
    /// The most that tensors held at the same time.
    pub peak: u64,
    /// In memory: what tensors hold and what is kept for others.
    pub kept: u64,
}

/// The elements of a tensor: its own, or lent by a pool.
pub(crate) enum Buffer {
    Owned(Vec<f32>),
    Lent(Lent),
}

/// A part of a pool's memory, which returns when this is dropped.
pub(crate) struct Lent {
    first: NonNull<f32>,
    len: usize,
    place: Option<Place>,
    pool: Arc<Pool>,
}

// SAFETY: a place belongs to one `Lent` from `take` to `drop`, so this is as a `Box<[f32]>`, whatever thread it is on; the
// pool behind it is locked for every access.
unsafe impl Send for Lent {}
// SAFETY: as above; through a shared reference there are only shared slices.
unsafe impl Sync for Lent {}

impl Pool {
    /// A buffer of `len` elements with unspecified content (NaN with debug assertions), aligned to a cache line.
    pub(crate) fn take(this: &Arc<Self>, len: usize) -> Buffer {
        if len == 0 {
            return Buffer::Owned(Vec::new());
        }
        let mut state = this.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { arena, regions } = &mut *state;
        let place = arena.take(len);
        if place.stretch == regions.len() {
            regions.push(Region::new(arena.stretch_len(place.stretch)));
        }
        let first = regions[place.stretch].at(place.first);
        drop(state);
        let mut lent = Lent { first, len, place: Some(place), pool: Arc::clone(this) };
        if cfg!(debug_assertions) {
            lent.as_mut_slice().fill(f32::NAN);
        }
        Buffer::Lent(lent)
    }

    pub(crate) fn bytes(&self) -> BufferBytes {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = |elements: usize| 4 * elements as u64;
        let arena = &state.arena;
        BufferBytes { live: bytes(arena.taken()), peak: bytes(arena.peak()), kept: bytes(arena.touched()) }
    }
}

/// Memory of the operating system, which becomes real page by page as it is touched.
struct Region(MmapRaw);

impl Region {
    /// Zeros. A program without memory ends here, as it does where a `Vec` finds none.
    fn new(len: usize) -> Self {
        let layout = Layout::array::<f32>(len).expect("elements that fit the address space");
        let Ok(map) = MmapMut::map_anon(layout.size()) else { handle_alloc_error(layout) };
        // Large pages, where the system has them: a step walks over gigabytes. Refusing them loses nothing.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Self(MmapRaw::from(map))
    }

    /// Element `position`; whoever dereferences it (`Lent`) says why it is there.
    #[expect(clippy::cast_ptr_alignment, reason = "a mapping begins where a page does")]
    fn at(&self, position: usize) -> NonNull<f32> {
        NonNull::new(self.0.as_mut_ptr().cast::<f32>().wrapping_add(position)).expect("a mapping is not at 0")
    }
}

impl Lent {
    fn as_slice(&self) -> &[f32] {
        // SAFETY: the place lies inside a region, which is mapped for as long as the pool lives; it begins at a multiple
        // of 64 bytes from the start of a page; mapped memory is zeros or what was written, and any bits are an f32. Nobody
        // else has this place until `drop` returns it, and writing goes through `&mut self`.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }

    fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: as in `as_slice`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.first.as_ptr(), self.len) }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut state = self.pool.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = self.place.take() {
            state.arena.give_back(place);
        }
    }
}

impl Buffer {
    pub(crate) fn as_slice(&self) -> &[f32] {
        match self {
            Self::Owned(data) => data,
            Self::Lent(lent) => lent.as_slice(),
        }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [f32] {
        match self {
            Self::Owned(data) => data,
            Self::Lent(lent) => lent.as_mut_slice(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(pool: &Arc<Pool>, len: usize, value: f32) -> Buffer {
        let mut buffer = Pool::take(pool, len);
        buffer.as_mut_slice().fill(value);
        buffer
    }

    #[test]
    fn buffers_keep_their_content_and_are_aligned() {
        let pool = Arc::default();
        let mut buffers: Vec<Buffer> = Vec::new();
        for i in 0..200 {
            buffers.push(fill(&pool, 1 + 37 * i, i as f32));
            if i % 3 == 0 {
                buffers.swap_remove(i / 2);
            }
        }
        for buffer in &buffers {
            let data = buffer.as_slice();
            assert!(data.iter().all(|x| *x == data[0]));
            assert!(data.as_ptr().addr().is_multiple_of(64));
            assert_eq!(data.len(), 1 + 37 * data[0] as usize);
        }
    }

    #[test]
    fn memory_is_used_again_and_outlives_its_context() {
        let pool: Arc<Pool> = Arc::default();
        let kept = fill(&pool, 1000, 1.0);
        for _ in 0..10 {
            drop(fill(&pool, 5_000_000, 2.0));
        }
        let bytes = pool.bytes();
        assert_eq!(bytes.live, 4 * 1008);
        assert!((20_000_000..20_100_000).contains(&bytes.kept), "{bytes:?}");
        assert!(Pool::take(&pool, 0).as_slice().is_empty());
        drop(pool);
        assert!(kept.as_slice().iter().all(|x| *x == 1.0));
    }
}
