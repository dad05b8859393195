//! Documents from files: text, JSONL, plain or compressed, as a stream that holds one document at a time.

mod decompress;
mod files;
mod jsonl;
mod pieces;

use std::io::{BufRead, BufReader, Read};
use std::sync::atomic::Ordering::Relaxed;
use std::vec;

use crate::corpus::Source;
use crate::error::{Error, Result};
use crate::hash::document_id;
use decompress::{Input, RawProgress};
pub use files::{InputFile, content_hash, list};

/// The longest document, and the longest line of JSONL, in bytes. A file without line breaks, or a small file that
/// decompresses without end, stops here rather than at the end of memory.
pub const MAX_DOCUMENT_BYTES: u64 = 1 << 30;

/// A document and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Stable identity: a hash of the source's name, the file's name within the source, and the position in the file.
    pub id: u64,
    /// The text, never empty.
    pub text: String,
}

/// The documents of a source in order: files as [`list`] sorts them, documents as they stand in the file. Empty
/// documents are passed over.
///
/// The first error ends the stream.
pub struct Documents {
    source: Source,
    files: vec::IntoIter<InputFile>,
    open: Option<Open>,
    digests: Vec<String>,
    bytes_read: u64,
    /// [`MAX_DOCUMENT_BYTES`], except in tests.
    max_bytes: u64,
}

struct Open {
    file: InputFile,
    input: Input,
    raw: RawProgress,
    /// Bytes of decompressed text consumed.
    offset: u64,
    line: u64,
    /// Documents passed, empty ones included, so that filling one in does not rename the others.
    index: u64,
    max_bytes: u64,
    /// Of a text file in pieces: bytes read that belong to the next piece.
    ahead: Vec<u8>,
}

impl Documents {
    /// The documents of `files`, which are [`list`]'s answer for `source`.
    pub fn new(source: &Source, files: Vec<InputFile>) -> Self {
        Self {
            source: source.clone(),
            files: files.into_iter(),
            open: None,
            digests: Vec::new(),
            bytes_read: 0,
            max_bytes: MAX_DOCUMENT_BYTES,
        }
    }

    /// Bytes read from disk so far, as stored.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read + self.open.as_ref().map_or(0, |open| open.raw.bytes.load(Relaxed))
    }

    /// The content hash of each file that has been read to its end, in order.
    pub fn digests(&self) -> &[String] {
        &self.digests
    }

    fn advance(&mut self) -> Result<Option<Document>> {
        loop {
            let Some(open) = &mut self.open else {
                let Some(file) = self.files.next() else { return Ok(None) };
                let (input, raw) = decompress::open(&file.path)?;
                let (max_bytes, ahead) = (self.max_bytes, Vec::new());
                self.open = Some(Open { file, input, raw, offset: 0, line: 0, index: 0, max_bytes, ahead });
                continue;
            };
            let text = match self.source.cut_bytes {
                _ if open.file.lines => open.line(&self.source.text_key)?,
                0 => open.whole()?,
                limit => open.piece(limit as usize)?,
            };
            let Some(text) = text else {
                let found = open.raw.bytes.load(Relaxed);
                if found != open.file.bytes {
                    return Err(Error::FileChanged { path: open.file.path.clone(), expected: open.file.bytes, found });
                }
                self.bytes_read += found;
                self.digests.push(open.raw.digest());
                self.open = None;
                continue;
            };
            let index = open.index;
            open.index += 1;
            if !text.is_empty() {
                let id = document_id(&self.source.name, open.file.path_index, &open.file.name, index);
                return Ok(Some(Document { id, text }));
            }
        }
    }
}

impl Iterator for Documents {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance();
        if next.is_err() {
            self.files = Vec::new().into_iter();
            self.open = None;
        }
        next.transpose()
    }
}

impl Open {
    /// The file as one document; `None` when it has been given.
    fn whole(&mut self) -> Result<Option<String>> {
        if self.index > 0 {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        self.take(|input| input.read_to_end(&mut bytes).map(|n| n as u64))?;
        self.text(bytes, 0).map(Some)
    }

    /// The next piece of at most `limit` bytes; `None` at the end of the file.
    fn piece(&mut self, limit: usize) -> Result<Option<String>> {
        let mut bytes = std::mem::take(&mut self.ahead);
        let missing = (limit + pieces::LOOK_AHEAD - bytes.len()) as u64;
        (&mut self.input)
            .take(missing)
            .read_to_end(&mut bytes)
            .map_err(|error| Error::Read { path: self.file.path.clone(), error })?;
        if bytes.is_empty() {
            return Ok(None);
        }
        self.ahead = bytes.split_off(pieces::end_of_first(&bytes, limit));
        let start = self.offset;
        self.offset += bytes.len() as u64;
        self.text(bytes, start).map(Some)
    }

    /// The text of the next line that is not blank; `None` at the end of the file.
    fn line(&mut self, text_key: &str) -> Result<Option<String>> {
        loop {
            let start = self.offset;
            let mut bytes = Vec::new();
            if self.take(|input| input.read_until(b'\n', &mut bytes).map(|n| n as u64))? == 0 {
                return Ok(None);
            }
            self.line += 1;
            let line = self.text(bytes, start)?;
            if !line.trim().is_empty() {
                return jsonl::text_of(&line, text_key, &self.file.path, self.line).map(Some);
            }
        }
    }

    /// Lets `read` take at most the longest document from the input; returns how much it took.
    fn take(&mut self, read: impl FnOnce(&mut dyn BufRead) -> std::io::Result<u64>) -> Result<u64> {
        let path = &self.file.path;
        let mut input = (&mut self.input).take(self.max_bytes + 1);
        let n = read(&mut input).map_err(|error| Error::Read { path: path.clone(), error })?;
        if n > self.max_bytes {
            let offset = self.offset;
            return Err(Error::DocumentTooLong { path: path.clone(), offset, limit: self.max_bytes });
        }
        self.offset += n;
        Ok(n)
    }

    /// The bytes that begin at `start` of the file as text, without a byte order mark.
    fn text(&self, bytes: Vec<u8>, start: u64) -> Result<String> {
        let mut text = String::from_utf8(bytes).map_err(|error| Error::Utf8 {
            path: self.file.path.clone(),
            offset: start + error.utf8_error().valid_up_to() as u64,
        })?;
        if start == 0 && text.starts_with('\u{feff}') {
            text.drain(..'\u{feff}'.len_utf8());
        }
        Ok(text)
    }
}

/// A reader of decompressed text with a buffer of its own.
fn buffered(reader: impl Read + Send + 'static) -> Input {
    Box::new(BufReader::with_capacity(1 << 16, reader))
}

#[cfg(test)]
mod tests;
