use tensor::Rng;

use super::words::{between, letters};
use super::{Item, Register};

/// `reverse k d q x` is `x q d k`: three to five letters, any of which may repeat.
pub(super) fn draw(rng: &mut Rng) -> Item {
    let n = between(rng, 3, 5);
    let mut string = letters(rng, n);
    let question = format!("reverse {}", string.join(" "));
    string.reverse();
    Item { register: Register::Reversal, question, answer: string.join(" "), chance: (n as f64).powi(-(n as i32)) }
}
