//! What a block is in a file.
//!
//! ```text
//! magic 8 | version 4 | CRC-32C 4 of all that follows | tokens in the block 4 | 0 4 | key 32 | parent 32 |
//! bytes of latents 8 | token ids 4 each | latents
//! ```
//!
//! Numbers are little-endian. The latents are as they lie in memory (`ops::mla_decode`), so a block that is read is the one
//! that was written, bit for bit.

use model::BLOCK_TOKENS;

use super::key::Name;

/// A file of another version is of no use. It is part of every key as well.
pub(super) const VERSION: u32 = 1;

/// The bytes before the latents.
pub(super) const HEADER: usize = 96 + 4 * BLOCK_TOKENS;

const MAGIC: [u8; 8] = *b"HADAL-KV";

/// The part that the checksum is not about: magic, version and itself.
const UNCHECKED: usize = 16;

/// Why a file is not the block that it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Damage {
    #[error("it has {found} bytes where {expected} are expected")]
    Length { found: u64, expected: u64 },
    #[error("it does not begin as a block of latents does")]
    Magic,
    #[error("it is of version {found}, and this program reads version {VERSION}")]
    Version { found: u32 },
    #[error("its checksum is {found:08x}, and what it holds has {computed:08x}")]
    Checksum { found: u32, computed: u32 },
    #[error("it holds another block than its name says")]
    Foreign,
}

/// The bytes of a file. `latents` appends those of the block.
pub(super) fn encode(name: &Name, tokens: &[u32], latents: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&(tokens.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&name.key.0);
    bytes.extend_from_slice(&name.parent.0);
    bytes.extend_from_slice(&[0; 8]);
    for token in tokens {
        bytes.extend_from_slice(&token.to_le_bytes());
    }
    assert_eq!(bytes.len(), HEADER, "a block has {BLOCK_TOKENS} tokens");
    latents(&mut bytes);
    let length = (bytes.len() - HEADER) as u64;
    bytes[88..96].copy_from_slice(&length.to_le_bytes());
    let checksum = crc32c::crc32c(&bytes[UNCHECKED..]);
    bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// The latents in a file that should be the block `name` of `tokens`, `length` bytes of them.
pub(super) fn decode<'a>(bytes: &'a [u8], name: &Name, tokens: &[u32], length: usize) -> Result<&'a [u8], Damage> {
    let expected = HEADER + length;
    if bytes.len() != expected {
        return Err(Damage::Length { found: bytes.len() as u64, expected: expected as u64 });
    }
    if bytes[..8] != MAGIC {
        return Err(Damage::Magic);
    }
    match number(bytes, 8) {
        VERSION => {}
        found => return Err(Damage::Version { found }),
    }
    let (found, computed) = (number(bytes, 12), crc32c::crc32c(&bytes[UNCHECKED..]));
    if found != computed {
        return Err(Damage::Checksum { found, computed });
    }
    // Whole and in order; so it is a block, but is it the one that is looked for?
    let want = encode(name, tokens, |_| {});
    let is_same = bytes[UNCHECKED..88] == want[UNCHECKED..88] && bytes[96..HEADER] == want[96..];
    if is_same && bytes[88..96] == (length as u64).to_le_bytes() { Ok(&bytes[HEADER..]) } else { Err(Damage::Foreign) }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes are four"))
}

#[cfg(test)]
mod tests {
    use super::super::key::Key;
    use super::*;

    const LATENTS: [u8; 100] = [3; 100];

    fn name(of: u8) -> Name {
        Name { key: Key([of; 32]), parent: Key([of + 1; 32]) }
    }

    fn file() -> Vec<u8> {
        encode(&name(1), &[5; BLOCK_TOKENS], |bytes| bytes.extend_from_slice(&LATENTS))
    }

    fn read(bytes: &[u8]) -> Result<&[u8], Damage> {
        decode(bytes, &name(1), &[5; BLOCK_TOKENS], LATENTS.len())
    }

    #[test]
    fn what_was_written_is_read() {
        assert_eq!(read(&file()), Ok(&LATENTS[..]));
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed() {
        let file = file();
        for i in 0..8 * file.len() {
            let mut file = file.clone();
            file[i / 8] ^= 1 << (i % 8);
            assert!(read(&file).is_err(), "bit {i}");
        }
    }

    #[test]
    fn a_file_of_any_other_length_is_noticed() {
        let file = file();
        for length in 0..file.len() {
            assert!(matches!(read(&file[..length]), Err(Damage::Length { .. })), "{length} bytes");
        }
        assert!(matches!(read(&[&file[..], &[0]].concat()), Err(Damage::Length { .. })));
    }

    #[test]
    fn another_version_or_block_is_noticed() {
        let mut later = file();
        later[8] = 2;
        assert_eq!(read(&later), Err(Damage::Version { found: 2 }));
        let mut garbage = file();
        garbage.fill(0x42);
        assert_eq!(read(&garbage), Err(Damage::Magic));
        let latents = |bytes: &mut Vec<u8>| bytes.extend_from_slice(&LATENTS);
        for other in [encode(&name(2), &[5; BLOCK_TOKENS], latents), encode(&name(1), &[6; BLOCK_TOKENS], latents)] {
            assert_eq!(read(&other), Err(Damage::Foreign));
        }
    }
}
