//! The environment: every variable the program reads, in one place. No other file looks at the environment.

use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::num::NonZeroUsize;

/// A variable that has an effect.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What it does, in one sentence without the full stop.
    pub doc: &'static str,
}

/// Every variable, in alphabetical order.
pub const VARIABLES: &[Variable] = &[
    Variable {
        name: "HADAL_THREADS",
        doc: "Threads to compute with where neither the command line nor the recipe says how many; all cores if unset",
    },
    Variable { name: "NO_COLOR", doc: "Set to anything but the empty string, it turns colours off" },
];

/// A variable holds something it must not.
#[derive(Debug, thiserror::Error)]
#[error("the environment variable {name} must be {must}, found \"{}\"", found.display())]
pub struct EnvError {
    /// The variable.
    pub name: &'static str,
    /// Its value.
    pub found: OsString,
    /// What it must be.
    pub must: &'static str,
}

/// `HADAL_THREADS`, or `None` when it is unset or empty.
///
/// # Errors
/// It is not a whole number from 1.
#[expect(clippy::disallowed_methods, reason = "this file is where the environment is read")]
pub fn threads() -> Result<Option<NonZeroUsize>, EnvError> {
    parse_threads(std::env::var_os("HADAL_THREADS").as_deref())
}

/// Whether colours may be used, as far as `NO_COLOR` has a say.
#[expect(clippy::disallowed_methods, reason = "this file is where the environment is read")]
pub fn color_allowed() -> bool {
    parse_color(std::env::var_os("NO_COLOR").as_deref())
}

/// The variable `name`, which the user has named, such as one that holds a key; `None` when it is unset.
#[expect(clippy::disallowed_methods, reason = "this file is where the environment is read")]
pub fn named(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// The reference page of variables, as Markdown.
pub fn markdown() -> String {
    let mut page = String::from(
        "# Environment variables\n\nEvery option of `hadal serve` has a variable too, which stands beside it in [commands.md](commands.md#hadal-serve), such\n\
         as `HADAL_PORT` for `--port`; the command line goes first. Beside those there are:\n\n| Variable | Meaning |\n|---|---|\n",
    );
    for variable in VARIABLES {
        writeln!(page, "| `{}` | {}. |", variable.name, variable.doc).expect("a string takes any text");
    }
    page
}

fn parse_threads(value: Option<&OsStr>) -> Result<Option<NonZeroUsize>, EnvError> {
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(None) };
    let threads = value.to_str().and_then(|text| text.trim().parse().ok());
    threads.map(Some).ok_or_else(|| EnvError {
        name: "HADAL_THREADS",
        found: value.to_owned(),
        must: "a whole number from 1",
    })
}

fn parse_color(value: Option<&OsStr>) -> bool {
    value.is_none_or(OsStr::is_empty)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::{VARIABLES, markdown, parse_color, parse_threads};

    #[test]
    fn threads_is_a_number_from_one_or_absent() {
        let parse = |text: &str| parse_threads(Some(OsStr::new(text)));
        assert_eq!(parse("8").unwrap().unwrap().get(), 8);
        assert!(parse("").unwrap().is_none() && parse_threads(None).unwrap().is_none());
        for wrong in ["0", "-1", "two", "1.5"] {
            let message = parse(wrong).unwrap_err().to_string();
            let expected = "the environment variable HADAL_THREADS must be a whole number from 1";
            assert_eq!(message, format!("{expected}, found \"{wrong}\""));
        }
    }

    #[test]
    fn an_empty_no_color_means_nothing() {
        assert!(parse_color(None) && parse_color(Some(OsStr::new(""))));
        assert!(!parse_color(Some(OsStr::new("1"))));
    }

    #[test]
    fn the_page_has_every_variable_in_order() {
        assert!(VARIABLES.is_sorted_by_key(|v| v.name));
        assert!(VARIABLES.iter().all(|v| markdown().contains(&format!("| `{}` |", v.name))));
    }
}
