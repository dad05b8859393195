use tensor::Rng;

use super::words::{between, letters};
use super::{Item, Register};

/// `copy k d q x` is `k d q x`: three to six letters, any of which may repeat.
pub(super) fn draw(rng: &mut Rng) -> Item {
    let n = between(rng, 3, 6);
    let string = letters(rng, n).join(" ");
    Item {
        register: Register::Copying,
        question: format!("copy {string}"),
        answer: string,
        // The order is free, the letters are known: n^n strings of n letters out of n.
        chance: (n as f64).powi(-(n as i32)),
    }
}
