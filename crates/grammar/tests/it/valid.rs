//! What JSON schemas mean, as far as the tests use them; written down apart from what compiles them.

use serde_json::{Map, Value};

/// Whether `schema`, a part of `root`, accepts `value`.
pub(crate) fn accepts(root: &Value, schema: &Value, value: &Value) -> bool {
    let schema = match schema {
        Value::Bool(all) => return *all,
        schema => schema.as_object().expect("a schema"),
    };
    schema.iter().all(|(key, rule)| holds(root, schema, key, rule, value))
}

fn holds(root: &Value, schema: &Map<String, Value>, key: &str, rule: &Value, value: &Value) -> bool {
    let all = |rules: &Value| rules.as_array().unwrap().iter().filter(|rule| accepts(root, rule, value)).count();
    let count = |n: Option<usize>| n.map(|n| n as f64);
    let at_least = |n: Option<f64>| n.is_none_or(|n| n >= rule.as_f64().unwrap());
    let at_most = |n: Option<f64>| n.is_none_or(|n| n <= rule.as_f64().unwrap());
    let characters = || count(value.as_str().map(|text| text.chars().count()));
    let items = || count(value.as_array().map(Vec::len));
    match key {
        "$defs" => true,
        "$ref" => accepts(root, root.pointer(rule.as_str().unwrap().trim_start_matches('#')).unwrap(), value),
        "type" => match rule {
            Value::Array(types) => types.iter().any(|rule| is(rule, value)),
            rule => is(rule, value),
        },
        "const" => rule == value,
        "enum" => rule.as_array().unwrap().contains(value),
        "anyOf" => all(rule) > 0,
        "allOf" => all(rule) == rule.as_array().unwrap().len(),
        "properties" => value.as_object().is_none_or(|object| {
            object.iter().all(|(name, value)| rule.get(name).is_none_or(|schema| accepts(root, schema, value)))
        }),
        "required" => value.as_object().is_none_or(|object| {
            rule.as_array().unwrap().iter().all(|name| object.contains_key(name.as_str().unwrap()))
        }),
        "additionalProperties" => value.as_object().is_none_or(|object| {
            let named =
                |name: &String| schema.get("properties").is_some_and(|properties| properties.get(name).is_some());
            object.iter().all(|(name, value)| named(name) || accepts(root, rule, value))
        }),
        "items" => value.as_array().is_none_or(|items| items.iter().all(|item| accepts(root, rule, item))),
        "minItems" => at_least(items()),
        "maxItems" => at_most(items()),
        "minLength" => at_least(characters()),
        "maxLength" => at_most(characters()),
        "pattern" => {
            value.as_str().is_none_or(|text| regex::Regex::new(rule.as_str().unwrap()).unwrap().is_match(text))
        }
        "minimum" => at_least(value.as_f64()),
        "maximum" => at_most(value.as_f64()),
        "exclusiveMinimum" => value.as_f64().is_none_or(|n| n > rule.as_f64().unwrap()),
        _ => panic!("a rule {key:?} that this does not know"),
    }
}

fn is(kind: &Value, value: &Value) -> bool {
    match kind.as_str().expect("a type") {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|n| n.fract() == 0.0),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("a type {other:?}"),
    }
}
