use tensor::Rng;

use super::words::{WORDS, between, letters, pick_distinct};
use super::{Item, Register};

/// `sort d b k a` is `a b d k`: three to five letters or digits, which may repeat, or three or four different words.
pub(super) fn draw(rng: &mut Rng) -> Item {
    let mut parts: Vec<String> = match rng.below(3) {
        0 => {
            let n = between(rng, 3, 5);
            letters(rng, n)
        }
        1 => (0..between(rng, 3, 5)).map(|_| rng.below(10).to_string()).collect(),
        _ => {
            let n = between(rng, 3, 4) as usize;
            pick_distinct(rng, &WORDS, n).into_iter().map(str::to_owned).collect()
        }
    };
    let question = format!("sort {}", parts.join(" "));
    parts.sort();
    Item { register: Register::Sorting, question, chance: 1.0 / orders(&parts), answer: parts.join(" ") }
}

/// In how many orders the parts, sorted, can stand: n! over the factorial of each number of equal parts.
fn orders(sorted: &[String]) -> f64 {
    let factorial = |n: usize| (1..=n).map(|k| k as f64).product::<f64>();
    sorted.chunk_by(|a, b| a == b).fold(factorial(sorted.len()), |orders, equal| orders / factorial(equal.len()))
}
