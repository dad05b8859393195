//! What is looked at before llguidance sees it: sizes, and references that lead elsewhere.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::error::Error;
use crate::grammar::{Function, Grammar};
use crate::limits;

/// Refuses what is too large or too deep, and what could not mean anything.
pub(crate) fn check(grammar: &Grammar) -> Result<(), Error> {
    let kind = grammar.kind();
    let at_most =
        |what, found, limit| if found > limit { Err(Error::Limit { kind, what, found, limit }) } else { Ok(()) };
    match grammar {
        Grammar::JsonObject => Ok(()),
        Grammar::JsonSchema(schema) => at_most("bytes", check_schema(kind, schema)?, limits::BYTES),
        Grammar::Regex(text) => at_most("bytes", text.len(), limits::BYTES),
        Grammar::Lark(text) => {
            at_most("bytes", text.len(), limits::BYTES)?;
            at_most("lines", text.lines().count(), limits::LINES)
        }
        Grammar::Choice(choices) => {
            at_most("entries", choices.len(), limits::CHOICES)?;
            at_most("bytes", choices.iter().map(String::len).sum(), limits::BYTES)?;
            match choices.iter().position(String::is_empty) {
                Some(i) => Err(Error::EmptyChoice(i)),
                None if choices.is_empty() => Err(Error::Empty(kind)),
                None => Ok(()),
            }
        }
        Grammar::Tools { functions, .. } => {
            if functions.is_empty() {
                return Err(Error::Empty("list of functions"));
            }
            if functions.len() > limits::FUNCTIONS {
                let (what, found, limit) = ("functions", functions.len(), limits::FUNCTIONS);
                return Err(Error::Limit { kind: "list of functions", what, found, limit });
            }
            let (mut names, mut bytes) = (BTreeSet::new(), 0);
            for Function { name, parameters } in functions {
                check_name(name)?;
                if !names.insert(name) {
                    return Err(Error::DuplicateName(name.clone()));
                }
                bytes += parameters.as_ref().map_or(Ok(0), |schema| check_schema(kind, schema))?;
            }
            at_most("bytes together with the others", bytes, limits::BYTES)
        }
    }
}

/// A name is written as it is, and ended by a line break or a token.
fn check_name(name: &str) -> Result<(), Error> {
    let (what, limit) = ("bytes", limits::NAME_BYTES);
    if name.len() > limit {
        return Err(Error::Limit { kind: "name of a function", what, found: name.len(), limit });
    }
    if name.is_empty() || name.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Err(Error::Name(name.to_owned()));
    }
    Ok(())
}

/// Refuses a schema that is too deep, too large, or refers to another document. The result is its size in bytes.
///
/// A list instead of recursion: nothing is known of the depth yet.
fn check_schema(kind: &'static str, schema: &Value) -> Result<usize, Error> {
    let limit = |what, found, limit| Err(Error::Limit { kind, what, found, limit });
    let mut todo = vec![(schema, 1)];
    let mut references = BTreeSet::new();
    let mut values = 0;
    while let Some((value, depth)) = todo.pop() {
        values += 1;
        if values > limits::VALUES {
            return limit("values", values, limits::VALUES);
        }
        match value {
            Value::Object(_) | Value::Array(_) if depth > limits::DEPTH => {
                return limit("levels", depth, limits::DEPTH);
            }
            Value::Array(items) => todo.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(entries) => {
                if let Some(Value::String(reference)) = entries.get("$ref") {
                    if !reference.starts_with('#') {
                        return Err(Error::Reference(reference.clone()));
                    }
                    references.insert(reference);
                }
                if entries.len() > limits::ENTRIES {
                    return limit("entries in one object", entries.len(), limits::ENTRIES);
                }
                todo.extend(entries.values().map(|entry| (entry, depth + 1)));
            }
            _ => {}
        }
    }
    if references.len() > limits::REFERENCES {
        return limit("references", references.len(), limits::REFERENCES);
    }
    Ok(schema.to_string().len())
}
