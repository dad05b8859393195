use std::io::{BufRead, Read};

use crate::error::Error;

/// The longest line of a batch file, in bytes: a context of a million tokens with room to spare.
pub(super) const MAX_LINE_BYTES: u64 = 64 << 20;

/// Reads the next line with its line feed, into `line`; whether there was one.
///
/// # Errors
/// It cannot be read, or `too_long` if it is longer than [`MAX_LINE_BYTES`].
pub(super) fn next(
    reader: &mut impl BufRead,
    line: &mut Vec<u8>,
    too_long: impl FnOnce(String) -> Error,
) -> Result<bool, Error> {
    line.clear();
    reader.take(MAX_LINE_BYTES + 1).read_until(b'\n', line)?;
    if line.len() as u64 > MAX_LINE_BYTES {
        return Err(too_long(format!("the line is longer than {MAX_LINE_BYTES} bytes")));
    }
    Ok(!line.is_empty())
}
