use tensor::Rng;

use super::{Doc, Register};

/// What a corpus is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Mix {
    /// Each register with its weight: the share of its documents is its weight over the sum of all.
    pub registers: Vec<(Register, u32)>,
    /// How many documents in a hundred are dialogues.
    pub dialogue_percent: u32,
}

impl Default for Mix {
    /// The quickstart's mix. Most of it is addition and copying, the two registers that a small model learns suddenly
    /// after about a million tokens of practice, and hardly at all before.
    fn default() -> Self {
        let registers = Register::ALL.map(|register| {
            let weight = match register {
                Register::Addition => 4,
                Register::Copying => 5,
                Register::Stories | Register::Programs => 3,
                Register::Sorting => 2,
                Register::Subtraction | Register::Reversal => 1,
            };
            (register, weight)
        });
        Self { registers: registers.to_vec(), dialogue_percent: 20 }
    }
}

/// An endless sequence of documents. Document `i` depends on the seed, the mix and `i` alone, so any part of the
/// sequence can be had without the parts before it.
#[derive(Clone, Debug)]
pub struct Corpus {
    seed: u64,
    mix: Mix,
}

impl Corpus {
    /// The corpus of this seed and mix.
    ///
    /// # Panics
    /// When every weight is zero.
    pub fn new(seed: u64, mix: Mix) -> Self {
        assert!(mix.registers.iter().any(|&(_, weight)| weight > 0), "a corpus needs a register of positive weight");
        Self { seed, mix }
    }

    /// Document `index`: several training items of one register.
    pub fn doc(&self, index: u64) -> Doc {
        let mut rng = Rng::new(self.seed, "synth corpus", index);
        let total = self.mix.registers.iter().map(|&(_, weight)| u64::from(weight)).sum();
        let mut ticket = rng.below(total);
        let chosen = self.mix.registers.iter().find(|&&(_, weight)| {
            let here = ticket < u64::from(weight);
            ticket = ticket.saturating_sub(u64::from(weight));
            here
        });
        let (register, _) = chosen.expect("the ticket is below the sum of the weights");
        let dialogue = rng.below(100) < u64::from(self.mix.dialogue_percent);
        let count = register.items_per_document();
        let items: Vec<_> = (0..count).map(|_| register.draw_from(false, &mut rng)).collect();
        if dialogue { Doc::dialogue(items) } else { Doc::document(&items) }
    }

    /// The documents from number `start` on, without end.
    pub fn iter_from(&self, start: u64) -> impl Iterator<Item = Doc> {
        (start..).map(|index| self.doc(index))
    }
}
