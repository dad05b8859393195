//! The gate, cheapest step first. The tests come last, so that their closing lines are the end of the output.

use std::error::Error;

use crate::{cargo, docs};

pub(crate) fn run() -> Result<(), Box<dyn Error>> {
    step("format", || cargo::run(&["fmt", "--all", "--check"]), "run `cargo fmt --all`")?;
    step(
        "lints",
        || cargo::run(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
        "mend it, or allow it where it stands with #[expect(.., reason = \"..\")]",
    )?;
    step(
        "structure",
        || cargo::run(&["test", "--quiet", "--workspace", "--test", "tidy"]),
        "each rule is a function in xtask/tests/tidy",
    )?;
    step("reference pages", docs::check, "run `cargo xtask docs`")?;
    step("tests", || cargo::run(&["test", "--workspace"]), "run the failing test alone with `cargo test -p CRATE NAME`")
}

fn step(name: &str, run: impl FnOnce() -> Result<(), Box<dyn Error>>, hint: &str) -> Result<(), Box<dyn Error>> {
    eprintln!("ci: {name}");
    run().map_err(|error| format!("ci stopped at {name}: {error}; {hint}").into())
}
