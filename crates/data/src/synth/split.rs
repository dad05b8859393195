use std::collections::BTreeSet;

use tensor::Rng;

use super::{Item, Register};

/// `n` different held-out items of a register: none of them occurs in any training document of any seed.
///
/// A register that has not so many gives those it has, as far as 100 draws in a row find a new one: addition has some
/// 800, subtraction some 400.
pub fn held_out_items(seed: u64, register: Register, n: usize) -> Vec<Item> {
    items(Rng::new(seed, "synth held out", register as u64), register, true, n)
}

/// `n` different training items of a register, for example to see which answers are frequent; as few as there are, as
/// with [`held_out_items`].
pub fn training_items(seed: u64, register: Register, n: usize) -> Vec<Item> {
    items(Rng::new(seed, "synth training", register as u64), register, false, n)
}

fn items(mut rng: Rng, register: Register, held_out: bool, n: usize) -> Vec<Item> {
    let mut seen = BTreeSet::new();
    let mut items = Vec::new();
    let mut repeats = 0;
    while items.len() < n && repeats < 100 {
        let item = register.draw_from(held_out, &mut rng);
        if seen.insert(item.question.clone()) {
            repeats = 0;
            items.push(item);
        } else {
            repeats += 1;
        }
    }
    items
}
