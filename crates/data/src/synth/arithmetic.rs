use tensor::Rng;

use super::words::between;
use super::{Item, Register};

/// `47+85` is `132`: two numbers of two digits, so that each digit always stands in the same place. A small model learns
/// this in far fewer steps than numbers of any length.
pub(super) fn addition(rng: &mut Rng) -> Item {
    let (a, b) = two_digits(rng);
    Item {
        register: Register::Addition,
        question: format!("{a}+{b}"),
        answer: (a + b).to_string(),
        chance: 1.0 / 179.0,
    }
}

/// `85-47` is `38`.
pub(super) fn subtraction(rng: &mut Rng) -> Item {
    let (a, b) = two_digits(rng);
    let (a, b) = (a.max(b), a.min(b));
    Item {
        register: Register::Subtraction,
        question: format!("{a}-{b}"),
        answer: (a - b).to_string(),
        chance: 1.0 / 90.0,
    }
}

fn two_digits(rng: &mut Rng) -> (u64, u64) {
    (between(rng, 10, 99), between(rng, 10, 99))
}

/// The sum with its addends in a fixed order, so that `47+85` and `85+47` are held out together.
pub(super) fn unordered(question: &str) -> String {
    match question.split_once('+') {
        Some((a, b)) => format!("{}+{}", a.min(b), a.max(b)),
        None => question.to_owned(),
    }
}
