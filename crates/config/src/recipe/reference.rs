//! The reference page of recipe keys, printed from the table the parser works with.

use std::fmt::Write;

use super::schema::{self, IfAbsent, Key, Kind, SECTIONS};

/// Every key, its type, its default and one sentence, as Markdown.
pub fn markdown() -> String {
    let mut page = String::from(
        "# Recipe keys\n\n\
         A recipe is one TOML file and says everything about a run. An unknown key is an error. `--set key=value` \
         changes any key from the command line: the value is TOML or, failing that, text; an array of tables is \
         addressed by index (`data.sources.0.weight=2`); an empty value removes the key. Relative paths in the file \
         start at the file's folder, those given with `--set` at the current directory. The complete recipe, every \
         default written out, is stored with the run.\n",
    );
    for (section, doc) in SECTIONS {
        let title = match section.strip_suffix("[]") {
            Some(list) => format!("`[[{list}]]`"),
            None if section.is_empty() => "Top level".to_owned(),
            None => format!("`[{section}]`"),
        };
        write!(page, "\n## {title}\n\n{doc}.\n\n| Key | Value | Default | Meaning |\n|---|---|---|---|\n")
            .expect("a string takes any text");
        for key in schema::keys_of(section) {
            let (name, kind, default) = (schema::name(key.path), value(key), default(key));
            writeln!(page, "| `{name}` | {kind} | {default} | {}. |", key.doc).expect("a string takes any text");
        }
    }
    page
}

fn value(key: &Key) -> String {
    match key.kind {
        Kind::OneOf(names) => names.iter().map(|name| format!("`\"{name}\"`")).collect::<Vec<_>>().join(", "),
        kind => kind.describe(),
    }
}

fn default(key: &Key) -> String {
    match key.if_absent {
        IfAbsent::Required => "required".to_owned(),
        IfAbsent::Optional => "none".to_owned(),
        IfAbsent::Value(text) | IfAbsent::Derived(text) => format!("`{text}`"),
    }
}
