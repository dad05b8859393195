//! The buffers of a step without their content.

use std::collections::BTreeMap;

use serde::Serialize;
use tensor::{Arena, Place};

/// What a buffer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Use {
    /// Gradients of weights.
    Gradients,
    /// Kept by forward for backward.
    Kept,
    /// Logits of a slab of rows, their gradient, and hidden states of a loss.
    Logits,
    /// What products pack their rows into, and attention its keys.
    Packed,
    /// Results on their way from one operation to the next.
    Passing,
}

/// Takes and returns buffers as a context does, and remembers what they were for when most was taken.
#[derive(Default)]
pub(super) struct Ledger {
    arena: Arena,
    now: BTreeMap<Use, u64>,
    at_peak: BTreeMap<Use, u64>,
}

/// A buffer that is taken.
pub(super) struct Buffer {
    place: Place,
    purpose: Use,
    bytes: u64,
}

impl Ledger {
    /// A buffer of `len` f32; none of no elements, which take nothing.
    pub(super) fn take(&mut self, purpose: Use, len: usize) -> Option<Buffer> {
        if len == 0 {
            return None;
        }
        let (before, peak) = (self.arena.taken(), self.arena.peak());
        let place = self.arena.take(len);
        let bytes = 4 * (self.arena.taken() - before) as u64;
        *self.now.entry(purpose).or_default() += bytes;
        if self.arena.peak() > peak {
            self.at_peak.clone_from(&self.now);
        }
        Some(Buffer { place, purpose, bytes })
    }

    /// Returns buffers.
    pub(super) fn give_back(&mut self, buffers: impl IntoIterator<Item = Option<Buffer>>) {
        for Buffer { place, purpose, bytes } in buffers.into_iter().flatten() {
            self.arena.give_back(place);
            *self.now.entry(purpose).or_default() -= bytes;
        }
    }

    /// Bytes taken now, by what they are for.
    pub(super) fn now(&self) -> &BTreeMap<Use, u64> {
        &self.now
    }

    /// The same at the moment when most was taken.
    pub(super) fn at_peak(&self) -> &BTreeMap<Use, u64> {
        &self.at_peak
    }

    /// The most bytes that were taken at the same time.
    pub(super) fn peak_bytes(&self) -> u64 {
        4 * self.arena.peak() as u64
    }

    /// Bytes of all memory that buffers ever came from.
    pub(super) fn touched_bytes(&self) -> u64 {
        4 * self.arena.touched() as u64
    }
}
