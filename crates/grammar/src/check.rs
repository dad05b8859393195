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
                if !parameters.as_ref().is_none_or(is_of_objects) {
                    return Err(Error::Parameters(name.clone()));
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

/// Whether a schema can be one of arguments; without a type it is taken for one of objects.
fn is_of_objects(schema: &Value) -> bool {
    schema.as_object().is_some_and(|schema| schema.get("type").is_none_or(|of| of == "object"))
}

/// Refuses a schema that is too deep, too large, or refers to another document. The result is its size in bytes.
///
/// A list instead of recursion: nothing is known of the depth yet.
fn check_schema(kind: &'static str, schema: &Value) -> Result<usize, Error> {
    let at_most =
        |what, found, limit| if found > limit { Err(Error::Limit { kind, what, found, limit }) } else { Ok(()) };
    let mut todo = vec![(schema, 1)];
    let (mut references, mut patterns) = (BTreeSet::new(), BTreeSet::new());
    let (mut values, mut alternatives) = (0, 0);
    while let Some((value, depth)) = todo.pop() {
        values += 1;
        at_most("values", values, limits::VALUES)?;
        match value {
            Value::Array(items) => {
                at_most("levels", depth, limits::DEPTH)?;
                todo.extend(items.iter().map(|item| (item, depth + 1)));
            }
            Value::Object(entries) => {
                at_most("levels", depth, limits::DEPTH)?;
                at_most("entries in one object", entries.len(), limits::ENTRIES)?;
                for (key, entry) in entries {
                    match (key.as_str(), entry) {
                        ("$ref", Value::String(reference)) if !reference.starts_with('#') => {
                            return Err(Error::Reference(reference.clone()));
                        }
                        ("$ref", Value::String(reference)) => {
                            references.insert(reference);
                            alternatives += 1;
                        }
                        ("anyOf" | "oneOf" | "allOf", Value::Array(schemas)) => alternatives += schemas.len(),
                        ("patternProperties", Value::Object(entries)) => patterns.extend(entries.keys()),
                        _ => {}
                    }
                    todo.push((entry, depth + 1));
                }
            }
            _ => {}
        }
    }
    at_most("references", references.len(), limits::REFERENCES)?;
    at_most("patterns of properties", patterns.len(), limits::PATTERNS)?;
    if patterns.len() > 1 {
        at_most("alternatives and references beside patterns of properties", alternatives, limits::ALTERNATIVES)?;
    }
    Ok(schema.to_string().len())
}
