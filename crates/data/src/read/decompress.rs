use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use xxhash_rust::xxh3::Xxh3;

use super::buffered;
use super::files::extension;
use crate::error::Result;

/// Decompressed text.
pub(super) type Input = Box<dyn BufRead + Send>;

/// What has been read from disk, seen from beside the decompressor that owns the file.
#[derive(Clone, Default)]
pub(super) struct RawProgress {
    /// Bytes as stored.
    pub(super) bytes: Arc<AtomicU64>,
    hash: Arc<Mutex<Xxh3>>,
}

impl RawProgress {
    /// The hash of the bytes read, comparable with [`super::content_hash`].
    pub(super) fn digest(&self) -> String {
        format!("{:032x}", self.hash.lock().unwrap_or_else(PoisonError::into_inner).digest128())
    }
}

/// The text of the file, decompressed by its last extension.
pub(super) fn open(path: &Path) -> Result<(Input, RawProgress)> {
    let progress = RawProgress::default();
    let raw = Raw { file: fs_err::File::open(path)?, progress: progress.clone() };
    let raw = BufReader::with_capacity(1 << 16, raw);
    let input = match extension(path).as_str() {
        "gz" => buffered(MultiGzDecoder::new(raw)),
        "zst" => buffered(Zstd { raw, decoder: FrameDecoder::new(), frames: 0, given: None }),
        _ => Box::new(raw),
    };
    Ok((input, progress))
}

/// The file, counted and hashed on the way.
struct Raw {
    file: fs_err::File,
    progress: RawProgress,
}

impl Read for Raw {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(out)?;
        self.progress.bytes.fetch_add(n as u64, Relaxed);
        self.progress.hash.lock().unwrap_or_else(PoisonError::into_inner).update(&out[..n]);
        Ok(n)
    }
}

/// Zstandard frames one after the other (RFC 8878, section 3.1), each checked against its checksum and content size.
struct Zstd<R> {
    raw: R,
    decoder: FrameDecoder,
    /// Frames begun, skippable ones included.
    frames: u64,
    /// Bytes that have come out of the present frame; `None` between frames.
    given: Option<u64>,
}

impl<R: BufRead> Zstd<R> {
    /// Begins the next frame, or passes over a skippable one. False at the end of the file.
    fn begin(&mut self) -> io::Result<bool> {
        if self.raw.fill_buf()?.is_empty() {
            return match self.frames {
                0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "there is no zstandard frame")),
                _ => Ok(false),
            };
        }
        self.frames += 1;
        match self.decoder.init(&mut self.raw) {
            Ok(()) => self.given = Some(0),
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                let length = u64::from(length);
                if io::copy(&mut (&mut self.raw).take(length), &mut io::sink())? < length {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
        Ok(true)
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some(given) = &mut self.given else {
                if self.begin()? {
                    continue;
                }
                return Ok(0);
            };
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                self.decoder
                    .decode_blocks(&mut self.raw, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            }
            if self.decoder.can_collect() == 0 {
                check_frame(&self.decoder, *given)?;
                self.given = None;
                continue;
            }
            let n = self.decoder.read(out)?;
            *given += n as u64;
            return Ok(n);
        }
    }
}

fn check_frame(decoder: &FrameDecoder, given: u64) -> io::Result<()> {
    let invalid = |message: String| Err(io::Error::new(io::ErrorKind::InvalidData, message));
    if let (Some(stored), Some(found)) = (decoder.get_checksum_from_data(), decoder.get_calculated_checksum())
        && stored != found
    {
        return invalid(format!("the frame's checksum should be {stored:08x}, found {found:08x}"));
    }
    // A frame need not say its size; the decoder reports that as 0.
    let size = decoder.content_size();
    if size != 0 && size != given {
        return invalid(format!("the frame should hold {size} bytes, found {given}"));
    }
    Ok(())
}
