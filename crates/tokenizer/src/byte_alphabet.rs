//! GPT-2's byte alphabet: how a vocabulary of JSON strings names arbitrary bytes.
//!
//! Bytes 33–126, 161–172 and 174–255 stand for themselves; the other 68, in increasing order, are U+0100, U+0101, ….

/// The character that stands for each byte.
const CHARS: [char; 256] = {
    let mut chars = ['\0'; 256];
    let mut byte = 0;
    let mut next = 0x100;
    while byte < 256 {
        let code = if is_own_character(byte as u8) {
            byte as u32
        } else {
            next += 1;
            next - 1
        };
        chars[byte] = match char::from_u32(code) {
            Some(c) => c,
            None => panic!("no code point of the alphabet is a surrogate"),
        };
        byte += 1;
    }
    chars
};

/// One character per byte.
pub(crate) fn encode(bytes: &[u8]) -> String {
    bytes.iter().map(|&b| CHARS[b as usize]).collect()
}

/// The bytes that `text` names, or `None` if one of its characters is not in the alphabet.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    text.chars().map(byte_of).collect()
}

fn byte_of(c: char) -> Option<u8> {
    match u8::try_from(c) {
        Ok(byte) => is_own_character(byte).then_some(byte),
        // The 68 others lie in order from U+0100 on.
        Err(_) => CHARS.iter().position(|&known| known == c).map(|byte| byte as u8),
    }
}

const fn is_own_character(byte: u8) -> bool {
    matches!(byte, 33..=126 | 161..=172 | 174..=255)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_character_of_its_own() {
        let all: Vec<u8> = (0..=255).collect();
        let text = encode(&all);
        assert_eq!(text.chars().count(), 256);
        assert_eq!(decode(&text), Some(all));
    }

    #[test]
    fn known_characters() {
        assert_eq!(encode(b" \n!\xad"), "\u{120}\u{10a}!\u{143}");
        assert_eq!(decode("\u{144}"), None);
        assert_eq!(decode(" "), None);
    }
}
