use std::collections::{HashMap, HashSet};
use std::io::{BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::line;
use crate::api::Reply;
use crate::error::Error;

/// After so many answers, or so long, what was written is made to survive a power cut.
const SYNC_LINES: u32 = 64;
const SYNC_AFTER: Duration = Duration::from_secs(5);

/// What every line begins with.
const BEGINNING: &[u8] = b"{\"";

/// The file of answers, which only grows.
pub(super) struct Output {
    file: fs_err::File,
    unsynced: u32,
    synced: Instant,
}

/// What a file of answers holds already.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The names of the requests that have an answer, or that failed for good.
    pub(super) ids: HashSet<String>,
    /// Those that failed.
    pub(super) failed: u64,
    /// A last line that was not written to its end was taken out.
    pub(super) was_torn: bool,
}

/// What this program looks at in a line of answers; what the answers are is not read.
#[derive(Deserialize)]
struct Line {
    custom_id: String,
    response: Option<Response>,
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Response {
    status_code: u16,
}

impl Output {
    /// Opens the answers to the requests `asked` (names and lines), makes them if there are none, and keeps other runs away.
    ///
    /// # Errors
    /// The file cannot be used, another run uses it, or it holds something else.
    pub(super) fn open(path: &Path, asked: &HashMap<String, u64>) -> Result<(Self, Found), Error> {
        let mut file = fs_err::File::options().create(true).read(true).append(true).open(path)?;
        file.try_lock().map_err(|error| match std::io::Error::from(error) {
            error if error.kind() == std::io::ErrorKind::WouldBlock => Error::Locked { path: path.to_owned() },
            error => Error::Io(error),
        })?;
        let found = read(&mut file, path, asked)?;
        Ok((Self { file, unsynced: 0, synced: Instant::now() }, found))
    }

    /// Adds one line. It is written in one piece, so that only a crash of the machine can tear it.
    pub(super) fn add(&mut self, line: &Value) -> Result<(), Error> {
        let mut text = line.to_string();
        text.push('\n');
        self.file.write_all(text.as_bytes())?;
        self.unsynced += 1;
        if self.unsynced >= SYNC_LINES || self.synced.elapsed() >= SYNC_AFTER {
            self.sync()?;
        }
        Ok(())
    }

    pub(super) fn sync(&mut self) -> Result<(), Error> {
        self.file.sync_data()?;
        (self.unsynced, self.synced) = (0, Instant::now());
        Ok(())
    }
}

/// Reads what is there, and cuts a torn last line off.
fn read(file: &mut fs_err::File, path: &Path, asked: &HashMap<String, u64>) -> Result<Found, Error> {
    let mut found = Found::default();
    let mut whole_bytes = 0;
    let mut reader = BufReader::new(&mut *file);
    reader.seek(SeekFrom::Start(0))?;
    let mut buffer = Vec::new();
    for number in 1.. {
        let wrong = |reason: String| Error::Output { path: PathBuf::from(path), line: number, reason };
        if !line::next(&mut reader, &mut buffer, wrong)? {
            break;
        }
        // Even if it reads well, a line without an end may have lost a part.
        if buffer.last() != Some(&b'\n') {
            // Something that is no answer at all must not be destroyed because its last line has no end.
            let is_ours = buffer.starts_with(BEGINNING) || BEGINNING.starts_with(&buffer);
            if whole_bytes == 0 && !is_ours && !buffer.iter().all(|&byte| byte == 0) {
                return Err(wrong("this is no file of answers; choose another one".to_owned()));
            }
            found.was_torn = true;
            break;
        }
        whole_bytes += buffer.len() as u64;
        if buffer.trim_ascii().is_empty() {
            continue;
        }
        let line: Line = serde_json::from_slice(&buffer)
            .map_err(|error| wrong(format!("this is no answer of a batch ({error}); choose another file")))?;
        let is_success = line.response.as_ref().is_some_and(|response| (200..300).contains(&response.status_code));
        if line.response.is_none() && line.error.is_none() {
            return Err(wrong(
                "this has neither response nor error, so it is no answer; choose another file".to_owned(),
            ));
        }
        if !asked.contains_key(&line.custom_id) {
            let id = line.custom_id;
            return Err(wrong(format!(
                "custom_id {id:?} is not among the requests; choose another file for their answers"
            )));
        }
        found.failed += u64::from(!is_success);
        if !found.ids.insert(line.custom_id) {
            return Err(wrong("this request has an answer before this one; choose another file".to_owned()));
        }
    }
    drop(reader);
    if found.was_torn {
        file.set_len(whole_bytes)?;
        file.sync_all()?;
    }
    Ok(found)
}

/// The line for an answer, of whatever status.
pub(super) fn response(line: u64, custom_id: &str, reply: &Reply) -> Value {
    json!({
        "id": format!("batch_req_{line}"),
        "custom_id": custom_id,
        "response": { "status_code": reply.status, "request_id": reply.request_id, "body": reply.body },
        "error": null,
    })
}

/// The line for a request that has no answer.
pub(super) fn failure(line: u64, custom_id: &str, error: &Error) -> Value {
    json!({
        "id": format!("batch_req_{line}"),
        "custom_id": custom_id,
        "response": null,
        "error": { "code": error.kind(), "message": error.to_string() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> HashMap<String, u64> {
        (1..).zip(["a", "b", "c"]).map(|(line, id)| (id.to_owned(), line)).collect()
    }

    /// A file of answers with `text` in it, opened; and what is in it afterwards.
    fn opened(text: &[u8]) -> (Result<Found, String>, Vec<u8>) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("out.jsonl");
        fs_err::write(&path, text).expect("written");
        let found = Output::open(&path, &asked()).map(|(_, found)| found).map_err(|error| error.to_string());
        (found, fs_err::read(&path).expect("read"))
    }

    fn lines() -> [String; 2] {
        let reply =
            |status| Reply { status, body: json!({ "x": "ü" }), retry_after: None, request_id: Some("r".into()) };
        [response(1, "a", &reply(200)), response(2, "b", &reply(400))].map(|line| format!("{line}\n"))
    }

    #[test]
    fn every_cut_leaves_the_whole_lines() {
        let [first, second] = lines();
        let whole = [first.as_bytes(), second.as_bytes()].concat();
        for cut in 0..=whole.len() {
            let (found, left) = opened(&whole[..cut]);
            let found = found.unwrap();
            let kept = if cut < first.len() {
                0
            } else if cut < whole.len() {
                first.len()
            } else {
                whole.len()
            };
            assert_eq!(left, &whole[..kept], "cut at {cut}");
            assert_eq!(found.was_torn, cut != kept, "cut at {cut}");
            assert_eq!(found.ids.len(), [0, first.len(), whole.len()].iter().filter(|n| **n <= kept).count() - 1);
            assert_eq!(found.failed, u64::from(kept == whole.len()));
        }
    }

    #[test]
    fn what_a_power_cut_leaves_is_cut_off() {
        let [first, _] = lines();
        let (found, left) = opened(&[first.as_bytes(), &[0; 50]].concat());
        assert!(found.unwrap().was_torn);
        assert_eq!(left, first.as_bytes());
    }

    #[test]
    fn other_files_are_left_alone() {
        let [first, _] = lines();
        let cases = [
            "important\n".to_owned(),
            "important".to_owned(),
            "{\"custom_id\":\"a\"}\n".to_owned(),
            first.replace("\"a\"", "\"z\""),
            first.clone() + &first,
            "\u{0}\n".to_owned() + &first,
        ];
        for text in cases {
            let (found, left) = opened(text.as_bytes());
            let message = found.expect_err(&text);
            assert!(message.contains("choose another"), "{message}");
            assert_eq!(left, text.as_bytes());
        }
    }

    #[test]
    fn two_runs_do_not_share_a_file() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("out.jsonl");
        let first = Output::open(&path, &asked()).expect("free");
        assert!(matches!(Output::open(&path, &asked()), Err(Error::Locked { .. })));
        drop(first);
        Output::open(&path, &asked()).map(|_| ()).expect("free again");
    }
}
