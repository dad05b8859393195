use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::line;
use crate::error::Error;

/// One request of a batch.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Request {
    /// Its line, from 1.
    pub(super) line: u64,
    /// The user's name for it.
    pub(super) custom_id: String,
    /// Where it goes, such as `/v1/chat/completions`.
    pub(super) path: String,
    pub(super) body: Value,
}

/// The requests of a file, one after the other.
pub(super) struct Requests {
    path: PathBuf,
    reader: BufReader<fs_err::File>,
    line: u64,
    buffer: Vec<u8>,
}

/// Reads the whole file once: every line is a request, and each has a name of its own. The lines of the names.
///
/// # Errors
/// The file cannot be read, or a line is not as it should be.
pub(super) fn check(path: &Path) -> Result<HashMap<String, u64>, Error> {
    let mut lines = HashMap::new();
    for request in Requests::open(path)? {
        let Request { line, custom_id, .. } = request?;
        match lines.entry(custom_id) {
            Entry::Vacant(entry) => entry.insert(line),
            Entry::Occupied(entry) => {
                let reason = format!(
                    "custom_id {:?} is that of line {} too; answers could not be told apart",
                    entry.key(),
                    entry.get()
                );
                return Err(Error::Line { path: path.to_owned(), line, reason });
            }
        };
    }
    if lines.is_empty() {
        return Err(Error::Line { path: path.to_owned(), line: 1, reason: "the file has no requests".to_owned() });
    }
    Ok(lines)
}

impl Requests {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let reader = BufReader::new(fs_err::File::open(path)?);
        Ok(Self { path: path.to_owned(), reader, line: 0, buffer: Vec::new() })
    }

    fn wrong(&self, reason: String) -> Error {
        Error::Line { path: self.path.clone(), line: self.line, reason }
    }

    fn read(&mut self) -> Result<Option<Request>, Error> {
        loop {
            self.line += 1;
            let (path, line) = (&self.path, self.line);
            let too_long = |reason| Error::Line { path: path.clone(), line, reason };
            if !line::next(&mut self.reader, &mut self.buffer, too_long)? {
                return Ok(None);
            }
            if !self.buffer.trim_ascii().is_empty() {
                return parse(&self.buffer, line).map(Some).map_err(|reason| self.wrong(reason));
            }
        }
    }
}

impl Iterator for Requests {
    type Item = Result<Request, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

fn parse(bytes: &[u8], line: u64) -> Result<Request, String> {
    let mut value: Value = serde_json::from_slice(bytes).map_err(|error| format!("no JSON: {error}"))?;
    let shown = |value: &Value| crate::error::excerpt(value.to_string().as_bytes());
    let Some(custom_id) = value["custom_id"].as_str().filter(|id| !id.is_empty()).map(str::to_owned) else {
        return Err(format!("custom_id is {}, but must be a text that names the request", shown(&value["custom_id"])));
    };
    if value["method"] != "POST" {
        return Err(format!("method is {}, but must be \"POST\"", shown(&value["method"])));
    }
    let is_path = |path: &&str| {
        path.starts_with("/v1/") && path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_-.".contains(&b))
    };
    let Some(path) = value["url"].as_str().filter(is_path).map(str::to_owned) else {
        return Err(format!("url is {}, but must be a path such as \"/v1/chat/completions\"", shown(&value["url"])));
    };
    let body = value["body"].take();
    if !body.is_object() {
        return Err(format!("body is {}, but must be an object, the request itself", shown(&body)));
    }
    if body["stream"] == true {
        return Err("body asks for a stream, which a line of a file cannot hold; take \"stream\" out".to_owned());
    }
    Ok(Request { line, custom_id, path, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &[u8]) -> Result<HashMap<String, u64>, String> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("in.jsonl");
        fs_err::write(&path, text).expect("written");
        check(&path).map_err(|error| error.to_string())
    }

    fn request(id: &str) -> String {
        format!("{{\"custom_id\":{id},\"method\":\"POST\",\"url\":\"/v1/completions\",\"body\":{{\"prompt\":\"x\"}}}}")
    }

    #[test]
    fn every_line_is_a_request_with_a_name_of_its_own() {
        // Line ends of both kinds, an empty line, and a last line without an end.
        let text = format!("{}\r\n\n{}\n{}", request("\"a\""), request("\"b\""), request("\"c\""));
        let lines = checked(text.as_bytes()).unwrap();
        assert_eq!((lines["a"], lines["b"], lines["c"]), (1, 3, 4));
        let twice = format!("{}\n{}\n{}\n", request("\"a\""), request("\"b\""), request("\"a\""));
        let message = checked(twice.as_bytes()).unwrap_err();
        assert!(message.contains(":3: custom_id \"a\" is that of line 1 too"), "{message}");
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let good = request("\"a\"");
        let cases = [
            (request("7"), "custom_id is 7"),
            (request("\"\""), "custom_id is \"\""),
            (good.replace("POST", "GET"), "method is \"GET\""),
            (good.replace("/v1/completions", "http://elsewhere/v1"), "url is "),
            (good.replace("/v1/completions", "/v1/a?b"), "url is "),
            (good.replace("{\"prompt\":\"x\"}", "[]"), "body is []"),
            (good.replace("\"prompt\":\"x\"", "\"stream\":true"), "take \"stream\" out"),
            (good[..good.len() - 1].to_owned(), "no JSON"),
            ("[1]".to_owned(), "custom_id is null"),
        ];
        for (line, expected) in cases {
            let message = checked(format!("{}\n{line}\n", request("\"first\"")).as_bytes()).unwrap_err();
            assert!(message.contains(":2: ") && message.contains(expected), "{line}: {message}");
        }
        assert!(checked(b"\n\n").unwrap_err().contains("no requests"));
        assert!(checked(b"\xff\xfe\n").unwrap_err().contains("no JSON"));
    }
}
