use std::fmt;
use std::path::Path;

use serde::Deserializer as _;
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};

use crate::error::{Error, Result};

/// The string under `text_key` of the JSON object in `line`, which is line number `number` of `path`.
pub(super) fn text_of(line: &str, text_key: &str, path: &Path, number: u64) -> Result<String> {
    let malformed = |error| Error::Json { path: path.to_owned(), line: number, text_key: text_key.to_owned(), error };
    let mut json = serde_json::Deserializer::from_str(line);
    let text = json.deserialize_map(TextField(text_key)).map_err(malformed)?;
    json.end().map_err(malformed)?;
    if let Some(text) = text {
        return Ok(text);
    }
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).map_err(malformed)?;
    let mut found: Vec<String> = object.into_iter().map(|(key, _)| key).collect();
    found.sort();
    Err(Error::MissingKey { path: path.to_owned(), line: number, text_key: text_key.to_owned(), found })
}

/// Picks one field and passes over the others without building them.
struct TextField<'k>(&'k str);

impl<'de> Visitor<'de> for TextField<'_> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut text = None;
        while let Some(key) = map.next_key::<String>()? {
            if key != self.0 {
                map.next_value::<IgnoredAny>()?;
            } else if text.is_some() {
                return Err(A::Error::custom(format!("the key {key:?} occurs twice")));
            } else {
                text = Some(map.next_value()?);
            }
        }
        Ok(text)
    }
}
