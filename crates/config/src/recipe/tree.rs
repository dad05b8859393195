//! From a TOML tree as written to one that is complete: known keys, right types, defaults filled in, absolute paths.

use std::path::Path;

use toml::{Table, Value};

use super::error::RecipeError;
use super::schema::{self, IfAbsent, Kind, SECTIONS, join};
use crate::suggest::nearest;

/// Refuses unknown keys and wrong types, and turns `3` into `3.0` or `2e6` into `2000000` where the key wants it.
pub(super) fn check(tree: &mut Table) -> Result<(), RecipeError> {
    check_table(tree, "", "")
}

/// `path` is the schema path of the table, `shown` the path a user knows it by.
fn check_table(table: &mut Table, path: &str, shown: &str) -> Result<(), RecipeError> {
    for (name, value) in table.iter_mut() {
        let (path, shown) = (join(path, name), join(shown, name));
        let Some(key) = schema::find(&path) else {
            if !schema::is_table(&path) {
                return Err(RecipeError::UnknownKey { key: shown, suggestion: suggestion(&path) });
            }
            match value {
                Value::Table(table) => check_table(table, &path, &shown)?,
                other => return Err(wrong_type(shown, "a table".into(), other)),
            }
            continue;
        };
        check_value(value, key.kind, &path, &shown)?;
    }
    Ok(())
}

fn check_value(value: &mut Value, kind: Kind, path: &str, shown: &str) -> Result<(), RecipeError> {
    /// Above this a float no longer holds every whole number.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let fits = match (kind, &mut *value) {
        (Kind::Int, Value::Integer(n)) => *n >= 0,
        (Kind::Int, &mut Value::Float(x)) if x.fract() == 0.0 && (0.0..=EXACT).contains(&x) => {
            *value = Value::Integer(x as i64);
            true
        }
        (Kind::Float | Kind::FloatOrInf, &mut Value::Integer(n)) => {
            *value = Value::Float(n as f64);
            true
        }
        (Kind::Float, Value::Float(x)) => x.is_finite(),
        (Kind::FloatOrInf, Value::Float(x)) => !x.is_nan(),
        (Kind::Bool, Value::Boolean(_))
        | (Kind::Str | Kind::Path, Value::String(_))
        | (Kind::Free, Value::Table(_)) => true,
        (Kind::Strs | Kind::Paths, Value::Array(items)) => items.iter().all(Value::is_str),
        (Kind::OneOf(names), Value::String(text)) => names.contains(&text.as_str()),
        (Kind::Tables, Value::Array(items)) => {
            for (index, item) in items.iter_mut().enumerate() {
                let (path, shown) = (format!("{path}[]"), format!("{shown}.{index}"));
                match item {
                    Value::Table(table) => check_table(table, &path, &shown)?,
                    other => return Err(wrong_type(shown, "a table".into(), other)),
                }
            }
            true
        }
        _ => false,
    };
    if fits { Ok(()) } else { Err(wrong_type(shown.to_owned(), kind.describe(), value)) }
}

/// The nearest key of the same table, otherwise the key of that name anywhere else.
fn suggestion(path: &str) -> Option<String> {
    let (table, name) = (schema::parent(path), schema::name(path));
    let here = schema::keys_of(table).map(|key| key.path);
    let tables = SECTIONS.iter().map(|(section, _)| *section).filter(|s| !s.is_empty() && schema::parent(s) == table);
    let siblings: Vec<&str> = here.chain(tables).collect();
    let best = nearest(name, siblings.iter().map(|path| schema::name(path)));
    let elsewhere = || schema::KEYS.iter().map(|key| key.path).find(|path| schema::name(path) == name);
    best.map(|best| join(table, best)).or_else(|| elsewhere().map(str::to_owned))
}

/// Writes out every default that is a value and refuses a missing required key. Derived defaults come later.
pub(super) fn fill(tree: &mut Table) -> Result<(), RecipeError> {
    for (section, _) in SECTIONS.iter().filter(|(section, _)| !section.ends_with("[]")) {
        let table = section.split('.').filter(|name| !name.is_empty()).fold(&mut *tree, |table, name| {
            let entry = table.entry(name).or_insert_with(|| Value::Table(Table::new()));
            entry.as_table_mut().expect("checked to be a table")
        });
        fill_table(table, section, section)?;
    }
    Ok(())
}

fn fill_table(table: &mut Table, path: &str, shown: &str) -> Result<(), RecipeError> {
    for key in schema::keys_of(path) {
        let name = schema::name(key.path);
        if !table.contains_key(name) {
            match key.if_absent {
                IfAbsent::Required => {
                    return Err(RecipeError::Missing { key: join(shown, name), meaning: key.doc });
                }
                IfAbsent::Value(text) => {
                    table.insert(name.to_owned(), literal(text).expect("a default in the schema is TOML"));
                }
                IfAbsent::Optional | IfAbsent::Derived(_) => {}
            }
        }
        if key.kind == Kind::Tables
            && let Some(Value::Array(items)) = table.get_mut(name)
        {
            for (index, item) in items.iter_mut().enumerate() {
                let item = item.as_table_mut().expect("checked to be a table");
                fill_table(item, &format!("{}[]", key.path), &format!("{}.{index}", key.path))?;
            }
        }
    }
    Ok(())
}

/// Makes every path under `value` absolute; relative ones start at `base`.
pub(super) fn make_absolute(value: &mut Value, path: &str, base: &Path) -> Result<(), RecipeError> {
    let kind = schema::find(path).map(|key| key.kind);
    match (kind, value) {
        (Some(Kind::Path), Value::String(text)) => absolute(text, base),
        (Some(Kind::Paths), Value::Array(items)) => items
            .iter_mut()
            .try_for_each(|item| if let Value::String(text) = item { absolute(text, base) } else { Ok(()) }),
        (Some(Kind::Tables), Value::Array(items)) => {
            items.iter_mut().try_for_each(|item| make_absolute(item, &format!("{path}[]"), base))
        }
        (None, Value::Table(table)) => {
            table.iter_mut().try_for_each(|(name, value)| make_absolute(value, &join(path, name), base))
        }
        _ => Ok(()),
    }
}

fn absolute(text: &mut String, base: &Path) -> Result<(), RecipeError> {
    if text.is_empty() {
        return Ok(());
    }
    let joined = base.join(&*text);
    let full = std::path::absolute(&joined).map_err(RecipeError::Read)?;
    full.to_str().ok_or(RecipeError::NotUtf8 { path: joined })?.clone_into(text);
    Ok(())
}

/// One TOML value from its text.
pub(super) fn literal(text: &str) -> Option<Value> {
    let mut table: Table = toml::from_str(&format!("value = {text}")).ok()?;
    if table.len() == 1 { table.remove("value") } else { None }
}

fn wrong_type(key: String, expected: String, found: &Value) -> RecipeError {
    let kind = match found {
        Value::String(_) => "string",
        Value::Integer(_) => "integer",
        Value::Float(_) => "number",
        Value::Boolean(_) => "boolean",
        Value::Datetime(_) => "date",
        Value::Array(_) => "array",
        Value::Table(_) => "table",
    };
    let text = match found {
        // The shorter of Rust's two spellings: 1e40 rather than forty zeros.
        Value::Float(x) => format!("{x:?}"),
        other => other.to_string(),
    };
    // A long value would bury the message.
    let found = if text.len() <= 60 { format!("the {kind} {text}") } else { format!("a long {kind}") };
    RecipeError::WrongType { key, expected, found }
}
