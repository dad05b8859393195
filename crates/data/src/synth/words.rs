//! Random choices that several registers make.

use tensor::Rng;

/// Words of few letters that are neither names nor places of the stories.
pub(super) const WORDS: [&str; 40] = [
    "ant", "apple", "bean", "bear", "bird", "boat", "cake", "cat", "corn", "cow", "dog", "duck", "egg", "fig", "fish",
    "fox", "goat", "hat", "hen", "ice", "jam", "kite", "lamp", "leaf", "moon", "nut", "owl", "pear", "pig", "plum",
    "rain", "rose", "salt", "snow", "star", "sun", "tree", "vine", "wolf", "yak",
];

/// One of `all`.
pub(super) fn pick<'a, T: ?Sized>(rng: &mut Rng, all: &[&'a T]) -> &'a T {
    all[rng.below(all.len() as u64) as usize]
}

/// `n` different ones of `all`, in random order.
///
/// # Panics
/// When `all` has fewer than `n`.
pub(super) fn pick_distinct<T: Copy>(rng: &mut Rng, all: &[T], n: usize) -> Vec<T> {
    let mut pool = all.to_vec();
    (0..n).map(|_| pool.swap_remove(rng.below(pool.len() as u64) as usize)).collect()
}

/// A whole number in `low..=high`.
pub(super) fn between(rng: &mut Rng, low: u64, high: u64) -> u64 {
    low + rng.below(high - low + 1)
}

/// `n` letters, which may repeat.
pub(super) fn letters(rng: &mut Rng, n: u64) -> Vec<String> {
    (0..n).map(|_| char::from(b'a' + rng.below(26) as u8).to_string()).collect()
}
