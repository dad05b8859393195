//! How much there is in a JSON text, before any of it is kept: as values it can take thirty times the room.

use std::fmt;

use serde::Deserializer;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::error::ApiError;

/// Values inside one another.
const MAX_DEPTH: usize = 64;
/// What all values together may cost: as much as the tokens of some very long prompts that are given as ids.
const MAX_COST: usize = 1 << 20;
/// What a value costs that needs memory of its own, as a list, an object, a string and the key of an entry do. Others have
/// a place in a list and cost 1.
const COST: usize = 8;

/// Refuses what is no JSON, is nested too deeply, or has too many values.
pub(crate) fn check(text: &[u8]) -> Result<(), ApiError> {
    let mut census = Census { cost: 0, depth: 0, excess: None };
    let mut json = serde_json::Deserializer::from_slice(text);
    let read = census.deserialize(&mut json).and_then(|()| json.end());
    match (census.excess, read) {
        (Some(Excess::Depth), _) => {
            let message = format!("the body is nested more than {MAX_DEPTH} levels deep");
            Err(ApiError::bad_request("nested_too_deeply", message))
        }
        (Some(Excess::Values), _) => {
            let message = format!(
                "the body has too many values; {MAX_COST} numbers are read, or an eighth of that of other values, keys included"
            );
            Err(ApiError::bad_request("too_many_values", message))
        }
        (None, Err(error)) => Err(ApiError::bad_request("invalid_json", format!("the body is not JSON: {error}"))),
        (None, Ok(())) => Ok(()),
    }
}

struct Census {
    cost: usize,
    depth: usize,
    excess: Option<Excess>,
}

#[derive(Clone, Copy)]
enum Excess {
    Depth,
    Values,
}

impl Census {
    fn add<E: serde::de::Error>(&mut self, cost: usize) -> Result<(), E> {
        self.cost += cost;
        if self.cost > MAX_COST {
            self.excess = Some(Excess::Values);
            return Err(E::custom("too many values"));
        }
        Ok(())
    }

    /// Goes into a list or an object; `next` says whether there was one more value.
    fn inside<E: serde::de::Error>(&mut self, mut next: impl FnMut(&mut Self) -> Result<bool, E>) -> Result<(), E> {
        self.add(COST)?;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            self.excess = Some(Excess::Depth);
            return Err(E::custom("nested too deeply"));
        }
        while next(self)? {}
        self.depth -= 1;
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for &mut Census {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut Census {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.add(1)
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<(), E> {
        self.add(1)
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<(), E> {
        self.add(1)
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<(), E> {
        self.add(1)
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<(), E> {
        self.add(1)
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<(), E> {
        self.add(COST)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.inside(|census| Ok(items.next_element_seed(census)?.is_some()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        self.inside(|census| {
            if entries.next_key::<IgnoredAny>()?.is_none() {
                return Ok(false);
            }
            census.add(COST)?;
            entries.next_value_seed(census).map(|()| true)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &[u8]) -> Option<&'static str> {
        check(text).err().map(|error| error.code)
    }

    #[test]
    fn nesting_ends() {
        let deep = |n: usize| format!("{{\"a\":{}{}}}", "[".repeat(n), "]".repeat(n)).into_bytes();
        assert_eq!(code(&deep(MAX_DEPTH - 1)), None);
        for n in [MAX_DEPTH, 127, 1_000_000] {
            assert_eq!(code(&deep(n)), Some("nested_too_deeply"), "{n}");
        }
        assert_eq!(code(&b"[".repeat(1_000_000)), Some("nested_too_deeply"));
        assert_eq!(code(&b"{\"a\":".repeat(1_000_000)), Some("nested_too_deeply"));
        // Beside one another there may be any number.
        assert_eq!(code(format!("[{}[]]", "[[[]]],".repeat(1000)).as_bytes()), None);
    }

    #[test]
    fn values_are_counted() {
        let many = |item: &str, n: usize| format!("[{}0]", format!("{item},").repeat(n)).into_bytes();
        assert_eq!(code(&many("0", MAX_COST - COST - 1)), None);
        assert_eq!(code(&many("0", MAX_COST - COST)), Some("too_many_values"));
        for item in ["[]", "{}", "\"\"", "\"\\u0000\""] {
            assert_eq!(code(&many(item, MAX_COST / COST - 2)), None, "{item}");
            assert_eq!(code(&many(item, MAX_COST / COST)), Some("too_many_values"), "{item}");
        }
        let entries = format!("{{{}\"a\":0}}", "\"a\":0,".repeat(MAX_COST / COST));
        assert_eq!(code(entries.as_bytes()), Some("too_many_values"), "keys that are overwritten count, too");
    }

    #[test]
    fn what_passes_is_what_the_parser_takes() {
        for text in
            ["", "{", "nul", "{} x", "[1,]", "\"\\ud800\"", "1e999", "01", "NaN", "\"a", "[\"\u{1}\"]", "{\"a\" 1}"]
        {
            assert_eq!(code(text.as_bytes()), Some("invalid_json"), "{text:?}");
            assert!(serde_json::from_str::<serde_json::Value>(text).is_err(), "{text:?}");
        }
        for text in ["null", "-1.5e-3", "18446744073709551616", "[true,{\"a\":\"\\u0000\"}]", " 1 "] {
            assert_eq!(code(text.as_bytes()), None, "{text:?}");
            assert!(serde_json::from_str::<serde_json::Value>(text).is_ok(), "{text:?}");
        }
        assert_eq!(code(b"\"\xff\""), Some("invalid_json"));
    }
}
