//! Which parts of some stretches of memory are taken. This is bookkeeping alone: who owns the memory is for [`crate::Ctx`],
//! and a plan of a run goes through the same motions without any.

use std::collections::BTreeMap;

/// Hands out parts of stretches of memory, in elements. A part comes from the first hole that is long enough, and holes that
/// touch become one.
///
/// A training step takes and returns the same lengths in the same order again and again. So the stretches stop growing
/// after the first step, and first fit keeps what was ever touched within some percent of what was in use at the same time.
#[derive(Debug, Default)]
pub struct Arena {
    stretches: Vec<Stretch>,
    /// Length of each hole, by where it begins.
    holes: BTreeMap<Start, usize>,
    taken: usize,
    peak: usize,
}

#[derive(Debug)]
struct Stretch {
    len: usize,
    /// Where the part that reached farthest ended. What is behind it was never written.
    touched: usize,
}

/// Number of a stretch, and a position in it.
type Start = (usize, usize);

/// A part that is taken.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    pub(crate) stretch: usize,
    pub(crate) first: usize,
    len: usize,
}

/// Parts begin and end at multiples of this: a cache line of f32, which is also the widest vector.
const UNIT: usize = 16;

/// Length of the first stretch: 16 MiB of f32. Each further one is as long as all before it together, or as long as what it
/// is for; address space that is not touched costs nothing.
const FIRST: usize = 1 << 22;

impl Arena {
    /// Takes `len` elements. Adds a stretch if there is no such hole.
    ///
    /// # Panics
    /// When `len` is 0.
    pub fn take(&mut self, len: usize) -> Place {
        assert!(len > 0, "nothing takes no place");
        let len = len.next_multiple_of(UNIT);
        let hole = self.holes.iter().find(|(_, hole)| **hole >= len);
        let ((stretch, first), hole) = match hole {
            Some((&start, &hole)) => (start, hole),
            None => self.grow(len),
        };
        self.holes.remove(&(stretch, first));
        if hole > len {
            self.holes.insert((stretch, first + len), hole - len);
        }
        self.taken += len;
        self.peak = self.peak.max(self.taken);
        let touched = &mut self.stretches[stretch].touched;
        *touched = (*touched).max(first + len);
        Place { stretch, first, len }
    }

    /// Takes `place` back.
    #[expect(clippy::needless_pass_by_value, reason = "what is given back is gone")]
    pub fn give_back(&mut self, place: Place) {
        let Place { stretch, mut first, mut len } = place;
        self.taken -= len;
        let before = self.holes.range(..(stretch, first)).next_back();
        if let Some((&start, &hole)) = before
            && start.0 == stretch
            && start.1 + hole == first
        {
            self.holes.remove(&start);
            (first, len) = (start.1, hole + len);
        }
        if let Some(hole) = self.holes.remove(&(stretch, first + len)) {
            len += hole;
        }
        self.holes.insert((stretch, first), len);
    }

    /// A new stretch, all of it one hole.
    fn grow(&mut self, len: usize) -> (Start, usize) {
        let all: usize = self.stretches.iter().map(|s| s.len).sum();
        let len = len.max(all).max(FIRST);
        self.stretches.push(Stretch { len, touched: 0 });
        ((self.stretches.len() - 1, 0), len)
    }

    /// The length of a stretch.
    pub(crate) fn stretch_len(&self, stretch: usize) -> usize {
        self.stretches[stretch].len
    }

    /// Elements that are taken now.
    pub fn taken(&self) -> usize {
        self.taken
    }

    /// The most elements that were ever taken at the same time.
    pub fn peak(&self) -> usize {
        self.peak
    }

    /// Elements that were ever part of anything: what the memory behind the stretches amounts to.
    pub fn touched(&self) -> usize {
        self.stretches.iter().map(|s| s.touched).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;

    /// Takes and gives back at random. Nothing may overlap, and the end must be as the beginning.
    #[test]
    fn parts_never_overlap_and_holes_come_together_again() {
        let mut rng = Rng::new(1, "arena", 0);
        let mut arena = Arena::default();
        let mut taken: Vec<Place> = Vec::new();
        for _ in 0..4000 {
            if taken.is_empty() || rng.below(5) < 3 {
                let len = if rng.below(50) == 0 { FIRST } else { 4000 } as u64;
                let place = arena.take(1 + rng.below(len) as usize);
                let end = place.first + place.len;
                let apart = |o: &Place| o.stretch != place.stretch || o.first >= end || o.first + o.len <= place.first;
                assert!(taken.iter().all(apart) && end <= arena.stretch_len(place.stretch), "{place:?}");
                taken.push(place);
            } else {
                let place = taken.swap_remove(rng.below(taken.len() as u64) as usize);
                arena.give_back(place);
            }
            assert_eq!(arena.taken(), taken.iter().map(|p| p.len).sum::<usize>());
        }
        for place in taken {
            arena.give_back(place);
        }
        assert_eq!(arena.taken(), 0);
        assert_eq!(arena.holes.len(), arena.stretches.len(), "every stretch is one hole");
        assert!(arena.holes.iter().all(|(start, len)| start.1 == 0 && *len == arena.stretch_len(start.0)));
    }

    #[test]
    fn what_is_done_again_needs_no_more() {
        let mut arena = Arena::default();
        let step = |arena: &mut Arena| {
            let mut kept = Vec::new();
            for i in 1..100 {
                kept.push(arena.take(1000 * i));
                let lent = arena.take(777 * i);
                arena.give_back(lent);
            }
            kept.into_iter().rev().for_each(|place| arena.give_back(place));
        };
        step(&mut arena);
        let touched = arena.touched();
        step(&mut arena);
        assert_eq!(arena.touched(), touched);
        assert!(touched < arena.peak() * 11 / 10, "{touched} for {}", arena.peak());
    }
}
