//! Who may come in: keys with scopes, and how often each may ask.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::error::ApiError;

/// What a key opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// `/metrics` and `/stats`.
    Metrics,
    /// Everything.
    User,
}

/// The keys of a file.
pub struct Keys {
    keys: Vec<Key>,
}

struct Key {
    name: String,
    hash: [u8; 32],
    scope: Scope,
    rate: Option<Mutex<Bucket>>,
}

/// Requests that may come at once, refilled over a minute.
struct Bucket {
    per_minute: f64,
    tokens: f64,
    filled: Instant,
}

/// Whoever has shown a key, or needs none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// The key's name; empty without keys.
    pub(crate) name: String,
    pub(crate) scope: Scope,
}

/// Why a file of keys cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeysError {
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// It is not written as it should be.
    #[error("{path} is no file of keys: {source}")]
    Syntax {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: Box<toml::de::Error>,
    },
    /// An entry makes no sense.
    #[error("{path}: key {name:?}: {problem}")]
    Entry {
        /// The file.
        path: String,
        /// The entry's name.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// There is none.
    #[error("{path} has no keys, so that nobody could come in; add a [[keys]] entry with name, sha256 and scope")]
    Empty {
        /// The file.
        path: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    keys: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    sha256: String,
    scope: Scope,
    requests_per_minute: Option<u32>,
}

impl Keys {
    /// Reads `keys.toml`: entries `[[keys]]` with `name`, `sha256` (of the key, in hexadecimal digits), `scope` (`user`
    /// or `metrics`), and if wanted `requests_per_minute`.
    ///
    /// # Errors
    /// When the file cannot be read, has anything else in it, has two entries of a name, or none at all.
    pub fn read(path: &Path) -> Result<Self, KeysError> {
        Self::parse(&fs_err::read_to_string(path)?, &path.display().to_string())
    }

    fn parse(text: &str, path: &str) -> Result<Self, KeysError> {
        let file: File = toml::from_str(text)
            .map_err(|source| KeysError::Syntax { path: path.to_owned(), source: Box::new(source) })?;
        let mut keys: Vec<Key> = Vec::new();
        for Entry { name, sha256, scope, requests_per_minute } in file.keys {
            let wrong = |problem: &str| KeysError::Entry {
                path: path.to_owned(),
                name: name.clone(),
                problem: problem.to_owned(),
            };
            if name.is_empty() || name.len() > 64 || name.chars().any(char::is_control) {
                return Err(wrong("a name has 1 to 64 printable characters"));
            }
            if keys.iter().any(|key| key.name == name) {
                return Err(wrong("there is another one of this name"));
            }
            let hash = from_hex(&sha256).ok_or_else(|| {
                wrong("sha256 must be the 64 hexadecimal digits of the key's SHA-256, as `printf %s \"$KEY\" | sha256sum` prints them")
            })?;
            let rate = requests_per_minute
                .map(|rate| match rate {
                    0 => Err(wrong("requests_per_minute is 0; leave the key out, or the limit")),
                    rate => Ok(Mutex::new(Bucket::new(f64::from(rate), Instant::now()))),
                })
                .transpose()?;
            keys.push(Key { name, hash, scope, rate });
        }
        if keys.is_empty() {
            return Err(KeysError::Empty { path: path.to_owned() });
        }
        Ok(Self { keys })
    }

    /// Whether a request with these headers may ask for `path`, and as whom.
    ///
    /// # Errors
    /// When it has no key or one that is not known, that does not open the path, or that has asked too often.
    pub(crate) fn check(&self, path: &str, headers: &HeaderMap) -> Result<Caller, ApiError> {
        let Some(needed) = scope_of(path) else {
            return Ok(Caller { name: String::new(), scope: Scope::Metrics });
        };
        let given = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.as_bytes().split_at_checked(7))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "))
            .map(|(_, key)| key)
            .or_else(|| headers.get("x-api-key").map(HeaderValue::as_bytes));
        let Some(caller) = given.and_then(|key| self.find(key.trim_ascii())) else {
            let message = match given {
                None => "there is no API key; send it as `authorization: Bearer KEY`",
                Some(_) => "the API key is not known here",
            };
            return Err(ApiError::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message));
        };
        if caller.scope < needed {
            let message = format!("the key {:?} does not open this path", caller.name);
            return Err(ApiError::new(StatusCode::FORBIDDEN, "insufficient_scope", message));
        }
        if needed == Scope::User
            && let Err(seconds) = self.count(&caller.name)
        {
            let message = format!(
                "the key {:?} has asked as often as it may in a minute (requests_per_minute in the file of keys); try again later",
                caller.name
            );
            let error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", message);
            return Err(error.with_retry_after(seconds));
        }
        Ok(caller)
    }

    /// Whose `key` it is. Looks at all of them, so that the time it takes tells nothing.
    pub(crate) fn find(&self, key: &[u8]) -> Option<Caller> {
        let hash: [u8; 32] = Sha256::digest(key).into();
        let mut found = None;
        for key in &self.keys {
            if bool::from(key.hash.ct_eq(&hash)) {
                found = Some(Caller { name: key.name.clone(), scope: key.scope });
            }
        }
        found
    }

    /// Counts a request of the key `name`.
    ///
    /// # Errors
    /// The seconds to wait, when it has asked too often.
    pub(crate) fn count(&self, name: &str) -> Result<(), u64> {
        let rate = self.keys.iter().find(|key| key.name == name).and_then(|key| key.rate.as_ref());
        rate.map_or(Ok(()), |rate| rate.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now()))
    }
}

/// What a path takes. Only those that say whether the server lives, and the page itself, are open: they hold no data.
/// Everything else is closed, paths that do not exist included.
fn scope_of(path: &str) -> Option<Scope> {
    match path {
        "/livez" | "/readyz" | "/startupz" | "/health" | "/" => None,
        "/metrics" | "/stats" => Some(Scope::Metrics),
        path if path.strip_prefix("/ui/").is_some_and(|file| !file.contains('/')) => None,
        _ => Some(Scope::User),
    }
}

impl Bucket {
    fn new(per_minute: f64, now: Instant) -> Self {
        Self { per_minute, tokens: per_minute, filled: now }
    }

    fn take(&mut self, now: Instant) -> Result<(), u64> {
        let since = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + since * self.per_minute / 60.0).min(self.per_minute);
        self.filled = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(((1.0 - self.tokens) * 60.0 / self.per_minute).ceil().max(1.0) as u64)
    }
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn hex(key: &str) -> String {
        use std::fmt::Write;
        Sha256::digest(key.as_bytes()).iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
    }

    #[test]
    fn a_key_opens_what_its_entry_says() {
        let text = format!(
            "[[keys]]\nname = \"ann\"\nsha256 = \"{}\"\nscope = \"user\"\nrequests_per_minute = 2\n\n[[keys]]\nname = \"root\"\nsha256 = \
             \"{}\"\nscope = \"metrics\"\n",
            hex("one"),
            hex("two")
        );
        let keys = Keys::parse(&text, "keys.toml").unwrap();
        assert_eq!(keys.find(b"one").unwrap(), Caller { name: "ann".into(), scope: Scope::User });
        assert_eq!(keys.find(b"two").unwrap().scope, Scope::Metrics);
        assert!(keys.find(b"").is_none() && keys.find(b"One").is_none());
        assert!(keys.count("ann").is_ok() && keys.count("ann").is_ok());
        assert!((1..=30).contains(&keys.count("ann").unwrap_err()));
        assert!((0..100).all(|_| keys.count("root").is_ok()));
    }

    #[test]
    fn wrong_files_are_told_what_is_wrong() {
        let wrong = |text: &str| Keys::parse(text, "k").err().expect("an error").to_string();
        assert!(wrong("").contains("no keys"));
        assert!(wrong("[[keys]]\nname = \"a\"\nsha256 = \"xy\"\nscope = \"user\"").contains("64 hexadecimal digits"));
        let entry = format!("[[keys]]\nname = \"a\"\nsha256 = \"{}\"\nscope = \"user\"\n", hex("x"));
        assert!(wrong(&format!("{entry}{entry}")).contains("another one"));
        assert!(wrong(&entry.replace("user", "king")).contains("king"));
        assert!(wrong(&format!("{entry}key = \"x\"")).contains("key"));
        assert!(wrong(&format!("{entry}requests_per_minute = 0")).contains("is 0"));
    }

    #[test]
    fn a_bucket_fills_with_time() {
        let start = Instant::now();
        let mut bucket = Bucket::new(60.0, start);
        assert!((0..60).all(|_| bucket.take(start).is_ok()));
        assert_eq!(bucket.take(start), Err(1));
        assert!(bucket.take(start + Duration::from_secs(1)).is_ok());
        assert!(bucket.take(start + Duration::from_secs(1)).is_err());
    }
}
