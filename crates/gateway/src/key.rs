//! Which requests belong together.
//!
//! A backend has the beginnings of its conversations in its cache, so requests that begin alike should meet there. What
//! decides is the beginning alone: of a chat the messages up to the first of the user, of each a few kilobytes, so that
//! later turns of a conversation have the key of the first. The body is not parsed but skimmed, and whether it is valid
//! is for the backend to say: of a damaged one comes some key or none.

use http::HeaderMap;
use memchr::memchr2;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// How much of a body is looked at.
const WINDOW: usize = 1 << 20;

/// How much of a message or prompt counts.
const PART: usize = 4 << 10;

/// The key of a request; nothing if its body is no conversation and no prompt.
///
/// Requests of different keys of access, or with a different `cache_salt`, share no cache, so they have different keys.
pub(crate) fn key(headers: &HeaderMap, body: &[u8]) -> Option<u64> {
    let head = Head::of(&body[..body.len().min(WINDOW)])?;
    let mut hash = Xxh3::new();
    for name in ["authorization", "x-api-key"] {
        add(&mut hash, headers.get(name).map_or(b"", |value| value.as_bytes()));
    }
    add(&mut hash, head.cache_salt);
    hash.update(&head.beginning.to_le_bytes());
    Some(hash.digest())
}

/// What of a body counts.
struct Head<'a> {
    cache_salt: &'a [u8],
    /// Hash of the system text, messages and prompt.
    beginning: u64,
}

impl<'a> Head<'a> {
    fn of(body: &'a [u8]) -> Option<Self> {
        let mut system: &[u8] = b"";
        let mut prompt: &[u8] = b"";
        let mut cache_salt: &[u8] = b"";
        let mut messages = None;
        let mut skim = Skim { bytes: body, at: 0 };
        skim.enter(b'{')?;
        while let Some(name) = skim.member() {
            let value = skim.value();
            match name {
                b"\"system\"" => system = value,
                b"\"prompt\"" => prompt = value,
                b"\"cache_salt\"" => cache_salt = value,
                b"\"messages\"" => messages = of_messages(value),
                _ => {}
            }
        }
        if system.is_empty() && prompt.is_empty() && messages.is_none() {
            return None;
        }
        let mut hash = Xxh3::new();
        add(&mut hash, system);
        add(&mut hash, prompt);
        hash.update(&messages.unwrap_or(0).to_le_bytes());
        Some(Self { cache_salt, beginning: hash.digest() })
    }
}

/// The hash of the messages up to the first one of the user.
fn of_messages(list: &[u8]) -> Option<u64> {
    let mut skim = Skim { bytes: list, at: 0 };
    skim.enter(b'[')?;
    let mut hash = Xxh3::new();
    let mut is_empty = true;
    while let Some(message) = skim.element() {
        add(&mut hash, message);
        is_empty = false;
        if is_of_user(message) {
            break;
        }
    }
    (!is_empty).then(|| hash.digest())
}

fn is_of_user(message: &[u8]) -> bool {
    let mut skim = Skim { bytes: message, at: 0 };
    if skim.enter(b'{').is_none() {
        return false;
    }
    while let Some(name) = skim.member() {
        let value = skim.value();
        if name == b"\"role\"" {
            return value == b"\"user\"";
        }
    }
    false
}

/// Adds a part so that no two lists of parts look the same.
fn add(hash: &mut Xxh3, part: &[u8]) {
    hash.update(&xxh3_64(&part[..part.len().min(PART)]).to_le_bytes());
}

/// Walks over JSON that may be damaged or cut short. Every step goes forward or ends.
struct Skim<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Skim<'a> {
    fn peek(&mut self) -> Option<u8> {
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        self.bytes.get(self.at).copied()
    }

    /// Goes into an object or list.
    fn enter(&mut self, open: u8) -> Option<()> {
        (self.peek()? == open).then(|| self.at += 1)
    }

    /// The name of the next member of an object, in its quotes; its value follows.
    fn member(&mut self) -> Option<&'a [u8]> {
        if self.peek()? == b',' {
            self.at += 1;
        }
        if self.peek()? != b'"' {
            return None;
        }
        let name = self.value();
        self.enter(b':')?;
        Some(name)
    }

    /// The next element of a list.
    fn element(&mut self) -> Option<&'a [u8]> {
        if self.peek()? == b',' {
            self.at += 1;
        }
        self.peek()?;
        let element = self.value();
        (!element.is_empty()).then_some(element)
    }

    /// The next value, as it is written; up to the end if it is cut short, and empty where no value begins.
    fn value(&mut self) -> &'a [u8] {
        if self.peek().is_none() {
            return b"";
        }
        let start = self.at;
        let mut depth = 0_usize;
        while let Some(byte) = self.bytes.get(self.at) {
            match byte {
                b'"' => {
                    self.string();
                    if depth == 0 {
                        break;
                    }
                }
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' if depth > 0 => {
                    depth -= 1;
                    self.at += 1;
                    if depth == 0 {
                        break;
                    }
                }
                b'}' | b']' | b',' | b':' if depth == 0 => break,
                byte if depth == 0 && byte.is_ascii_whitespace() => break,
                _ => self.at += 1,
            }
        }
        &self.bytes[start..self.at]
    }

    /// Goes behind the string that begins here.
    fn string(&mut self) {
        self.at += 1;
        while let Some(found) = memchr2(b'"', b'\\', &self.bytes[self.at..]) {
            let is_end = self.bytes[self.at + found] == b'"';
            // What follows a backslash is not the end, whatever it is.
            self.at = (self.at + found + if is_end { 1 } else { 2 }).min(self.bytes.len());
            if is_end {
                return;
            }
        }
        self.at = self.bytes.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(body: &str) -> Option<u64> {
        key(&HeaderMap::new(), body.as_bytes())
    }

    const FIRST: &str = r#"{"model": "m", "messages": [{"role": "system", "content": "Be \"brief\" ]}"},
        {"content": "Hello", "role": "user"}]}"#;

    #[test]
    fn later_turns_have_the_key_of_the_first() {
        let second = r#"{"messages": [{"role": "system", "content": "Be \"brief\" ]}"},
            {"content": "Hello", "role": "user"}, {"role": "assistant", "content": "Hi"},
            {"role": "user", "content": "And now?"}], "stream": true, "model": "m", "n": [1, {"x": null}]}"#;
        assert!(of(FIRST).is_some());
        assert_eq!(of(FIRST), of(second));
        assert_ne!(of(FIRST), of(&second.replace("Hello", "Hallo")));
        assert_ne!(of(FIRST), of(&second.replace("brief", "long")));
        // A message of the assistant that speaks of users is none of theirs.
        let quoted = r#"{"messages": [{"role": "assistant", "content": "\"role\": \"user\""}, {"role": "user", "content": "a"}]}"#;
        assert_ne!(of(quoted), of(&quoted.replace(r#""a""#, r#""b""#)));
    }

    #[test]
    fn prompts_and_systems_have_keys_and_other_bodies_have_none() {
        let a = of(r#"{"prompt": "one"}"#);
        let b = of(r#"{"prompt": [1, 2, 3]}"#);
        let c = of(r#"{"system": "one", "messages": []}"#);
        assert!(a.is_some() && b.is_some() && c.is_some() && a != b && a != c && b != c);
        for none in
            ["", "{}", "[]", "nothing", r#"{"messages": []}"#, r#"{"messages": {}}"#, r#"{"tokens": [1]}"#, "{\"\\"]
        {
            assert_eq!(of(none), None, "{none}");
        }
    }

    #[test]
    fn only_the_beginning_of_a_long_part_counts() {
        let long = |end: &str| format!(r#"{{"prompt": "{}{end}"}}"#, "x".repeat(PART));
        assert_eq!(of(&long("a")), of(&long("b")));
        // The salt is found behind it.
        let salted = long("a").replace('}', r#", "cache_salt": "s"}"#);
        assert_ne!(of(&salted), of(&long("a")));
    }

    #[test]
    fn tenants_do_not_mix() {
        let mut keys = vec![of(FIRST)];
        for (name, value) in [("authorization", "Bearer a"), ("authorization", "Bearer b"), ("x-api-key", "Bearer a")] {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().expect("a value"));
            keys.push(key(&headers, FIRST.as_bytes()));
        }
        for salt in ["a", "b"] {
            keys.push(of(&FIRST.replace(r#""model": "m""#, &format!(r#""cache_salt": "{salt}""#))));
        }
        let number = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), number);
    }

    #[test]
    fn damaged_bodies_end() {
        for end in 0..FIRST.len() {
            let _ = of(&FIRST[..end]);
            for byte in b"\"\\{}[]:, x\0\xff" {
                let mut body = FIRST.as_bytes().to_vec();
                body[end] = *byte;
                let _ = key(&HeaderMap::new(), &body);
            }
        }
        let _ = of(&"[".repeat(100_000));
        let _ = of(&"{\"messages\":[".repeat(100_000));
    }
}
