//! How a block is named on disk: by everything that its bits depend on.

use std::fmt;

use model::{BLOCK_TOKENS, CacheKind, Model, Precision};
use sha2::{Digest, Sha256};

use super::segment::VERSION;

/// A SHA-256. That of a block is over the one of the block before it and its own tokens, and that of the first is over the
/// salt, the model and the way it computes. So equal keys mean equal blocks, and nobody can make a prompt whose key is that
/// of another one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key(pub(super) [u8; 32]);

/// A block and the one before it; before the first one is the key of its salt, which is that of no block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    pub(super) key: Key,
    pub(super) parent: Key,
}

impl Key {
    /// What all blocks of a model have in common. `model` is the caller's word for its weights; the rest is what the engine
    /// can see of how they are used.
    pub(super) fn of_model(caller: &[u8; 32], model: &Model) -> Self {
        let kind: u64 = match model.cache_kind {
            CacheKind::F32 => 0,
            CacheKind::Bf16 => 1,
            CacheKind::Fp8 => 2,
        };
        let precision: u64 = match model.params.precision {
            Precision::F32 => 0,
            Precision::Bf16 => 1,
        };
        let block = [BLOCK_TOKENS as u64, model.cache_block_bytes() as u64];
        // A weight that is stored in another way has another size.
        let weights = model.params.all.iter().map(|param| param.value.size_bytes());
        let mut hash = Sha256::new();
        hash.update(b"hadal latents\0");
        hash.update(env!("CARGO_PKG_VERSION"));
        hash.update([0]);
        hash.update(caller);
        for number in [u64::from(VERSION), kind, precision].into_iter().chain(block).chain(weights) {
            hash.update(number.to_le_bytes());
        }
        Self(hash.finalize().into())
    }

    /// What stands before the first block of a prompt.
    pub(super) fn of_salt(self, salt: u64) -> Self {
        Self(
            Sha256::new()
                .chain_update(b"salt\0")
                .chain_update(self.0)
                .chain_update(salt.to_le_bytes())
                .finalize()
                .into(),
        )
    }

    /// The block of `tokens` behind this one.
    fn next(self, tokens: &[u32]) -> Self {
        let mut hash = Sha256::new().chain_update(b"block\0").chain_update(self.0);
        for token in tokens {
            hash.update(token.to_le_bytes());
        }
        Self(hash.finalize().into())
    }

    fn parse(hex: &str) -> Option<Self> {
        let mut key = [0; 32];
        if hex.len() != 64 || !hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return None;
        }
        for (i, byte) in key.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).ok()?;
        }
        Some(Self(key))
    }
}

/// The names of the whole blocks of a prompt.
pub(super) fn names(salt: Key, prompt: &[u32]) -> Vec<Name> {
    let mut before = salt;
    let name = |tokens: &[u32]| {
        let (key, parent) = (before.next(tokens), before);
        before = key;
        Name { key, parent }
    };
    prompt.chunks_exact(BLOCK_TOKENS).map(name).collect()
}

impl Name {
    /// Reads the name of a file; none when the file is not one of ours.
    pub(super) fn parse(file: &str) -> Option<Self> {
        let (key, parent) = file.strip_suffix(".latents")?.split_once('-')?;
        Some(Self { key: Key::parse(key)?, parent: Key::parse(parent)? })
    }
}

/// The name of its file.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}.latents", self.key, self.parent)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use config::presets;

    use super::*;

    #[test]
    fn everything_that_decides_about_bits_is_in_the_key() {
        let tiny = || Model::random(&presets::preset("tiny").unwrap(), 0.02, 1);
        let kept_as = |mut model: Model, kind| {
            model.cache_kind = kind;
            model
        };
        let models = [
            tiny(),
            kept_as(tiny(), CacheKind::Bf16),
            tiny().with_precision(Precision::Bf16),
            kept_as(tiny().with_precision(Precision::Bf16), CacheKind::Fp8),
        ];
        let mut roots: Vec<Key> = models.iter().map(|model| Key::of_model(&[0; 32], model)).collect();
        roots.push(Key::of_model(&[1; 32], &tiny()));
        roots.extend([roots[0].of_salt(0), roots[0].of_salt(1)]);
        for prompt in [[0; BLOCK_TOKENS], [1; BLOCK_TOKENS]] {
            roots.push(names(roots[0], &prompt)[0].key);
        }
        let n = roots.len();
        roots.sort();
        roots.dedup();
        assert_eq!(roots.len(), n);
        assert_eq!(Key::of_model(&[0; 32], &tiny()), Key::of_model(&[0; 32], &tiny()));
    }

    #[test]
    fn a_block_has_the_bytes_that_the_documentation_says() {
        // 61 layers of 512 + 64 numbers, without the weights of such a model.
        let layer = |kind| ops::mla_decode::Latents::new(kind, 512, 64).block_bytes();
        assert_eq!(61 * layer(CacheKind::Bf16), 64 * 70_272);
        assert_eq!(27 * layer(CacheKind::Bf16), 1_990_656);
        assert_eq!(8 * ops::mla_decode::Latents::new(CacheKind::Bf16, 128, 32).block_bytes(), 163_840);
    }

    #[test]
    fn a_name_is_that_of_all_tokens_so_far() {
        let prompt: Vec<u32> = (0..200).collect();
        let of = |prompt: &[u32]| names(Key([7; 32]), prompt);
        let all = of(&prompt);
        assert_eq!((all.len(), all[0].parent), (3, Key([7; 32])));
        assert!(all.windows(2).all(|pair| pair[1].parent == pair[0].key));
        let mut other = prompt.clone();
        other[64] = 0;
        assert_eq!(of(&other)[0], all[0]);
        assert!(of(&other)[1].key != all[1].key && of(&other)[2].key != all[2].key);
        assert_eq!(of(&prompt[..191]), all[..2]);
    }

    #[test]
    fn names_of_files_are_read_back() {
        let name = Name { key: Key([0xa5; 32]), parent: Key([9; 32]) };
        let file = name.to_string();
        assert_eq!(Name::parse(&file), Some(name));
        let (upper, long) = (file.to_uppercase(), format!("0{file}"));
        for wrong in [
            "",
            "README.md",
            "-.latents",
            &file[1..],
            &upper,
            &long,
            &file.replace('-', "_"),
            &file.replace("a5a5", "é5"),
        ] {
            assert_eq!(Name::parse(wrong), None, "{wrong}");
        }
    }
}
