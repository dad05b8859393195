//! `cargo xtask`: what the project does with itself.
//!
//! `cargo xtask ci` is everything the gate does. `cargo xtask e2e` runs the tests that need other programs. `cargo xtask docs` writes the reference pages that come from the code.
//! The structural rules of the project are ordinary tests, in `tests/tidy`.

mod cargo;
mod ci;
mod commands;
mod docs;
mod e2e;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask ci              everything the gate does, stopping at the first failure
       cargo xtask e2e [PYTEST..]  the tests of the whole program with other programs, by pytest
       cargo xtask docs            write the reference pages in docs/
       cargo xtask docs --check    fail if a reference page would change";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args[..] {
        ["ci"] => ci::run(),
        ["e2e", ref arguments @ ..] => e2e::run(arguments),
        ["docs"] => docs::write(),
        ["docs", "--check"] => docs::check(),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
