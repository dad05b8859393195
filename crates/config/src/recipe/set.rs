//! `--set a.b=c`: one value of a recipe from the command line.

use std::path::Path;

use toml::{Table, Value};

use super::error::RecipeError;
use super::schema::{self, Kind, join};
use super::tree;

/// Applies `argument`, `dotted.key=value`, to the tree of a recipe.
///
/// The value is read as TOML and, where that fails or the key wants text, taken as a string. An empty value removes
/// the key. `data.sources.0.weight` addresses the first source; the index after the last appends. Relative paths
/// start at the current directory, as on any command line.
pub(super) fn apply(tree: &mut Table, argument: &str) -> Result<(), RecipeError> {
    let fail = |reason: String| RecipeError::Set { argument: argument.to_owned(), reason };
    let (dotted, text) =
        argument.split_once('=').ok_or_else(|| fail("it has no \"=\"; write it as key=value".to_owned()))?;
    let names: Vec<&str> = dotted.split('.').map(str::trim).collect();
    if names.iter().any(|name| name.is_empty()) {
        return Err(fail("a name in the key is empty".to_owned()));
    }
    let (last, parents) = names.split_last().expect("splitting gives at least one name");
    let mut slot = Slot { place: Place::Table(tree), path: String::new(), shown: String::new() };
    for name in parents {
        slot = slot.enter(name).map_err(fail)?;
    }
    let text = text.trim();
    if text.is_empty() {
        return slot.remove(last).map_err(fail);
    }
    let path = slot.path_of(last);
    let mut value = value(text, schema::find(&path).map(|key| key.kind));
    tree::make_absolute(&mut value, &path, Path::new("."))?;
    slot.insert(last, value).map_err(fail)
}

fn value(text: &str, kind: Option<Kind>) -> Value {
    match (tree::literal(text), kind) {
        (Some(value @ Value::String(_)), _) => value,
        (Some(_), Some(Kind::Str | Kind::Path | Kind::OneOf(_))) | (None, _) => Value::String(text.to_owned()),
        (Some(value), _) => value,
    }
}

/// A table or array of the tree, its schema path, and the path a user knows it by.
struct Slot<'a> {
    place: Place<'a>,
    path: String,
    shown: String,
}

enum Place<'a> {
    Table(&'a mut Table),
    Array(&'a mut Vec<Value>),
}

impl<'a> Slot<'a> {
    /// The schema path of `name` in here.
    fn path_of(&self, name: &str) -> String {
        match self.place {
            Place::Table(_) => join(&self.path, name),
            Place::Array(_) => format!("{}[]", self.path),
        }
    }

    /// The table or array called `name`, made if the recipe has none yet. Errors say why there cannot be one.
    fn enter(self, name: &str) -> Result<Slot<'a>, String> {
        let path = self.path_of(name);
        let value = match self.place {
            Place::Table(table) => {
                let list = schema::find(&path).is_some_and(|key| key.kind == Kind::Tables);
                let empty = if list { Value::Array(Vec::new()) } else { Value::Table(Table::new()) };
                table.entry(name).or_insert(empty)
            }
            Place::Array(items) => {
                let index = index(&self.shown, name, items.len())?;
                if index == items.len() {
                    items.push(Value::Table(Table::new()));
                }
                &mut items[index]
            }
        };
        let shown = join(&self.shown, name);
        match value {
            Value::Table(table) => Ok(Slot { place: Place::Table(table), path, shown }),
            Value::Array(items) => Ok(Slot { place: Place::Array(items), path, shown }),
            other => Err(format!("{shown} is {other}, which has no keys")),
        }
    }

    fn insert(self, name: &str, value: Value) -> Result<(), String> {
        match self.place {
            Place::Table(table) => {
                table.insert(name.to_owned(), value);
            }
            Place::Array(items) => {
                let index = index(&self.shown, name, items.len())?;
                if index == items.len() { items.push(value) } else { items[index] = value }
            }
        }
        Ok(())
    }

    fn remove(self, name: &str) -> Result<(), String> {
        let removed = match self.place {
            Place::Table(table) => table.remove(name),
            Place::Array(items) => {
                name.parse().ok().filter(|&index: &usize| index < items.len()).map(|index| items.remove(index))
            }
        };
        removed.map(drop).ok_or_else(|| format!("there is no {} to remove", join(&self.shown, name)))
    }
}

/// The position `name` means in the array `shown` of `len` items; one past the end appends.
fn index(shown: &str, name: &str, len: usize) -> Result<usize, String> {
    let index = name.parse().ok().filter(|&index| index <= len);
    index.ok_or_else(|| format!("{shown} is an array of {len}, so it has no \"{name}\""))
}
