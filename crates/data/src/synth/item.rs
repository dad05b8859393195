use super::Register;

/// A question with its one right answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The kind of question.
    pub register: Register,
    /// The question alone, as one would put it in a chat: `47+85`, `copy k d q`, a story or a program.
    pub question: String,
    /// The right answer, a single line without surrounding white space.
    pub answer: String,
    /// How often a guess is right that knows the form of the answer and its parts, but not how they are put together:
    /// one in the number of such answers (one of the places a story names, one of the orders of the words to sort).
    pub chance: f64,
}

impl Item {
    /// What a model is given to complete: the question and the register's cue. It does not end in white space, which
    /// would be a token that training text never ends on.
    pub fn prompt(&self) -> String {
        format!("{}{}", self.question, self.register.cue().trim_end())
    }

    /// The item as it stands in a document: question, cue, answer, line end.
    pub fn line(&self) -> String {
        format!("{}{}{}\n", self.question, self.register.cue(), self.answer)
    }

    /// Whether the item belongs to the tenth that training documents never show. It depends on the item alone, not on
    /// any seed, so that no run ever trains on what another evaluates.
    ///
    /// Items that give each other away share a fate: a sum with its addends swapped, the orders of one set of words
    /// to sort.
    pub fn is_held_out(&self) -> bool {
        let key = match self.register {
            Register::Addition => super::arithmetic::unordered(&self.question),
            Register::Sorting => self.answer.clone(),
            _ => self.question.clone(),
        };
        hash(&format!("{}\n{key}", self.register.name())).is_multiple_of(10)
    }
}

/// FNV-1a over the bytes, then the finaliser of SplitMix64: FNV alone leaves the low digits of short, similar texts
/// correlated.
fn hash(text: &str) -> u64 {
    let fnv = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let mut h = text.bytes().fold(0xcbf2_9ce4_8422_2325, fnv);
    h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^ (h >> 31)
}
