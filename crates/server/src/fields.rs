//! JSON objects of requests, read field by field.
//!
//! A field is honoured or refused; what no reader asked for is unknown, and refused by [`Fields::end`]. `null` is as good
//! as absent, as published interfaces have it.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::census;
use crate::error::ApiError;

/// The fields of one object that have not been read yet.
#[derive(Debug)]
pub(crate) struct Fields {
    /// Where the object stands, such as `messages[0]`; empty for the request itself.
    at: String,
    map: Map<String, Value>,
    /// Names that were asked for, for those who misspell them.
    known: Vec<&'static str>,
}

impl Fields {
    /// The fields of a request's body.
    pub(crate) fn of_body(body: &[u8]) -> Result<Self, ApiError> {
        census::check(body)?;
        let value: Value = serde_json::from_slice(body)
            .map_err(|error| ApiError::bad_request("invalid_json", format!("the body is not JSON: {error}")))?;
        Self::of(value, "")
    }

    /// Those of `value`, which stands at `at`.
    pub(crate) fn of(value: Value, at: impl Into<String>) -> Result<Self, ApiError> {
        let at = at.into();
        match value {
            Value::Object(map) => Ok(Self { at, map, known: Vec::new() }),
            other => {
                let place = if at.is_empty() { "the body" } else { at.as_str() };
                let message = format!("{place} must be an object, not {}", kind(&other));
                Err(ApiError {
                    param: (!at.is_empty()).then(|| at.clone()),
                    ..ApiError::bad_request("invalid_type", message)
                })
            }
        }
    }

    /// The full name of a field.
    pub(crate) fn path(&self, name: &str) -> String {
        if self.at.is_empty() { name.to_owned() } else { format!("{}.{name}", self.at) }
    }

    /// A field of any type.
    pub(crate) fn any(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.map.remove(name).filter(|value| !value.is_null())
    }

    pub(crate) fn string(&mut self, name: &'static str) -> Result<Option<String>, ApiError> {
        match self.any(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong_type(name, "a string", &other)),
        }
    }

    pub(crate) fn boolean(&mut self, name: &'static str) -> Result<Option<bool>, ApiError> {
        match self.any(name) {
            None => Ok(None),
            Some(Value::Bool(is)) => Ok(Some(is)),
            Some(other) => Err(self.wrong_type(name, "true or false", &other)),
        }
    }

    pub(crate) fn number(&mut self, name: &'static str, range: RangeInclusive<f64>) -> Result<Option<f64>, ApiError> {
        let Some(value) = self.any(name) else { return Ok(None) };
        let Some(number) = value.as_f64() else { return Err(self.wrong_type(name, "a number", &value)) };
        if range.contains(&number) {
            return Ok(Some(number));
        }
        Err(self.out_of_range(name, &value, range.start(), range.end()))
    }

    pub(crate) fn integer(&mut self, name: &'static str, range: RangeInclusive<u64>) -> Result<Option<u64>, ApiError> {
        let Some(value) = self.any(name) else { return Ok(None) };
        let whole = value.as_u64().or_else(|| {
            // 3.0 is a whole number too.
            let number = value.as_f64().filter(|x| x.fract() == 0.0 && (0.0..9.0e15).contains(x))?;
            Some(number as u64)
        });
        match whole {
            Some(number) if range.contains(&number) => Ok(Some(number)),
            _ if value.is_number() => Err(self.out_of_range(name, &value, range.start(), range.end())),
            _ => Err(self.wrong_type(name, "a whole number", &value)),
        }
    }

    pub(crate) fn list(&mut self, name: &'static str, most: usize) -> Result<Option<Vec<Value>>, ApiError> {
        match self.any(name) {
            None => Ok(None),
            Some(Value::Array(items)) if items.len() > most => {
                let message = format!("{} has {} entries, and may have {most}", self.path(name), items.len());
                Err(ApiError::field("too_many_entries", self.path(name), message))
            }
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(other) => Err(self.wrong_type(name, "a list", &other)),
        }
    }

    pub(crate) fn object(&mut self, name: &'static str) -> Result<Option<Self>, ApiError> {
        let path = self.path(name);
        self.any(name).map(|value| Self::of(value, path)).transpose()
    }

    /// One of `names`.
    pub(crate) fn choice(
        &mut self,
        name: &'static str,
        names: &[&'static str],
    ) -> Result<Option<&'static str>, ApiError> {
        let Some(value) = self.any(name) else { return Ok(None) };
        let found = value.as_str().and_then(|text| names.iter().find(|known| **known == text));
        found.map(|known| Some(*known)).ok_or_else(|| {
            let message = format!("{} is {}, but must be one of {}", self.path(name), short(&value), names.join(", "));
            ApiError::field("invalid_value", self.path(name), message)
        })
    }

    /// A text that must be there.
    pub(crate) fn required_string(&mut self, name: &'static str) -> Result<String, ApiError> {
        let text = self.string(name)?;
        self.required(name, text)
    }

    /// One of `names`, which must be there.
    pub(crate) fn required_choice(
        &mut self,
        name: &'static str,
        names: &[&'static str],
    ) -> Result<&'static str, ApiError> {
        let choice = self.choice(name, names)?;
        self.required(name, choice)
    }

    /// An object that must be there.
    pub(crate) fn required_object(&mut self, name: &'static str) -> Result<Self, ApiError> {
        let object = self.object(name)?;
        self.required(name, object)
    }

    /// A field that must be there.
    pub(crate) fn required<T>(&self, name: &'static str, value: Option<T>) -> Result<T, ApiError> {
        value
            .ok_or_else(|| ApiError::field("missing_field", self.path(name), format!("{} is missing", self.path(name))))
    }

    /// Refuses a field of the published interface that has no effect here, unless it asks for what is done anyway.
    pub(crate) fn unsupported(&mut self, name: &'static str, same: impl Fn(&Value) -> bool) -> Result<(), ApiError> {
        match self.any(name) {
            Some(value) if !same(&value) => {
                let message = format!("{} = {} is not supported here; leave it out", self.path(name), short(&value));
                Err(ApiError::field("unsupported_parameter", self.path(name), message))
            }
            _ => Ok(()),
        }
    }

    /// Refuses what nobody asked for.
    pub(crate) fn end(self) -> Result<(), ApiError> {
        let Some((name, _)) = self.map.iter().find(|(_, value)| !value.is_null()) else { return Ok(()) };
        let path = self.path(&name.chars().take(100).collect::<String>());
        let hint = config::suggest::nearest(name, self.known.iter().copied());
        let hint = hint.map(|known| format!("; did you mean {known}?")).unwrap_or_default();
        Err(ApiError::field(
            "unknown_parameter",
            path.clone(),
            format!("{path} is no parameter that is known here{hint}"),
        ))
    }

    pub(crate) fn wrong_type(&self, name: &str, expected: &str, found: &Value) -> ApiError {
        let message = format!("{} must be {expected}, not {}", self.path(name), kind(found));
        ApiError::field("invalid_type", self.path(name), message)
    }

    fn out_of_range<T: std::fmt::Display>(&self, name: &str, found: &Value, from: &T, to: &T) -> ApiError {
        let message = format!("{} is {found}, but must be from {from} to {to}", self.path(name));
        ApiError::field("invalid_value", self.path(name), message)
    }
}

/// What sort of value it is, for people.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A value in an error message: its beginning, if it is long.
pub(crate) fn short(value: &Value) -> String {
    let text = value.to_string();
    let mut cut: String = text.chars().take(80).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    cut
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(value: Value) -> Fields {
        Fields::of(value, "").unwrap()
    }

    #[test]
    fn what_is_wrong_is_named() {
        let mut f = fields(json!({ "a": "x", "n": 17, "t": 0.5, "inner": { "b": [] }, "null": null, "temperatur": 1 }));
        assert_eq!(f.integer("a", 0..=3).unwrap_err().message, "a must be a whole number, not a string");
        assert_eq!(f.integer("n", 1..=16).unwrap_err().message, "n is 17, but must be from 1 to 16");
        assert_eq!(f.number("t", 0.0..=2.0).unwrap(), Some(0.5));
        let mut inner = f.object("inner").unwrap().unwrap();
        let error = inner.string("b").unwrap_err();
        assert_eq!((error.param.as_deref(), error.code), (Some("inner.b"), "invalid_type"));
        f.any("temperature");
        let error = f.end().unwrap_err();
        assert_eq!(error.code, "unknown_parameter");
        assert!(error.message.ends_with("did you mean temperature?"), "{}", error.message);
    }

    #[test]
    fn a_body_is_an_object() {
        assert!(Fields::of_body(b"{\"a\":[{}]}").is_ok());
        assert_eq!(Fields::of_body(b"[1]").unwrap_err().code, "invalid_type");
        assert_eq!(Fields::of_body(b"{").unwrap_err().code, "invalid_json");
    }
}
