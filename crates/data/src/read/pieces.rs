//! Where a text file is cut into documents.

/// Bytes beyond the limit by which the rest of any character that begins within it is seen, and whether the text goes on.
pub(super) const LOOK_AHEAD: usize = 4;

/// Where the first piece of a text ends that is known for `limit` and [`LOOK_AHEAD`] bytes or to its end: after the last
/// line end within `limit` bytes or, where there is none, after the last whole character. A single character is not cut
/// even if it is longer.
///
/// A text that is not UTF-8 is cut before no byte that could continue a character, so that its pieces show the same
/// first error as the whole.
pub(super) fn end_of_first(text: &[u8], limit: usize) -> usize {
    if text.len() <= limit {
        return text.len();
    }
    if let Some(line_end) = text[..limit].iter().rposition(|&byte| byte == b'\n') {
        return line_end + 1;
    }
    // Bytes of the form 10xxxxxx continue a character.
    let is_boundary = |&end: &usize| text[end] & 0xc0 != 0x80;
    let longer = || (limit + 1..text.len()).find(is_boundary);
    (1..=limit).rev().find(is_boundary).or_else(longer).unwrap_or(text.len())
}
