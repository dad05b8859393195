use tensor::Rng;

use super::words::{WORDS, between, pick, pick_distinct};
use super::{Item, Register};

const NAMES: [&str; 8] = ["a", "b", "c", "d", "n", "x", "y", "z"];

/// A small Python program and the one line it prints.
pub(super) fn draw(rng: &mut Rng) -> Item {
    let (question, answer, chance) = match rng.below(4) {
        0 => sum(rng),
        1 => comparison(rng),
        2 => indexing(rng),
        _ => repetition(rng),
    };
    Item { register: Register::Programs, question, answer, chance }
}

/// Two numbers below ten, added or subtracted (the result is never negative).
fn sum(rng: &mut Rng) -> (String, String, f64) {
    let names = pick_distinct(rng, &NAMES, 2);
    let (first, second) = (rng.below(10), rng.below(10));
    let (operation, result) =
        if rng.below(2) == 0 || second > first { ('+', first + second) } else { ('-', first - second) };
    let program = format!("{0} = {first}\n{1} = {0} {operation} {second}\nprint({1})", names[0], names[1]);
    (program, result.to_string(), 1.0 / 19.0)
}

/// Which of two words is printed depends on two numbers.
fn comparison(rng: &mut Rng) -> (String, String, f64) {
    let names = pick_distinct(rng, &NAMES, 2);
    let words = pick_distinct(rng, &WORDS, 2);
    let (first, second) = (rng.below(10), rng.below(10));
    let (operation, holds) = if rng.below(2) == 0 { ('<', first < second) } else { ('>', first > second) };
    let program = format!(
        "{0} = {first}\n{1} = {second}\nif {0} {operation} {1}:\n    print(\"{2}\")\nelse:\n    print(\"{3}\")",
        names[0], names[1], words[0], words[1]
    );
    (program, words[usize::from(!holds)].to_owned(), 0.5)
}

/// One of three or four words of a list.
fn indexing(rng: &mut Rng) -> (String, String, f64) {
    let name = pick(rng, &NAMES);
    let n = between(rng, 3, 4);
    let words = pick_distinct(rng, &WORDS, n as usize);
    let at = rng.below(n) as usize;
    let program = format!("{name} = [\"{}\"]\nprint({name}[{at}])", words.join("\", \""));
    (program, words[at].to_owned(), 1.0 / n as f64)
}

/// A word, two to five times.
fn repetition(rng: &mut Rng) -> (String, String, f64) {
    let name = pick(rng, &NAMES);
    let word = pick(rng, &WORDS);
    let n = between(rng, 2, 5);
    let program = format!("{name} = [\"{word}\"] * {n}\nprint(*{name})");
    (program, vec![word; n as usize].join(" "), 0.25)
}
