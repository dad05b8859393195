//! The reference pages: printed from the tables that the program itself works with, so that they cannot say anything
//! else.

use std::error::Error;
use std::path::{Path, PathBuf};

use crate::{cargo, commands};

/// A page as it should be.
struct Page {
    /// From the root of the project.
    path: PathBuf,
    text: String,
}

/// Writes the pages that have changed.
pub(crate) fn write() -> Result<(), Box<dyn Error>> {
    for page in stale()? {
        fs_err::write(cargo::root().join(&page.path), page.text)?;
        eprintln!("wrote {}", page.path.display());
    }
    Ok(())
}

/// Fails if a page is not what [`write`] would write.
pub(crate) fn check() -> Result<(), Box<dyn Error>> {
    let stale: Vec<String> = stale()?.iter().map(|page| page.path.display().to_string()).collect();
    if stale.is_empty() { Ok(()) } else { Err(format!("out of date: {}", stale.join(", ")).into()) }
}

fn stale() -> Result<Vec<Page>, Box<dyn Error>> {
    let mut stale = pages()?;
    stale.retain(|page| fs_err::read_to_string(cargo::root().join(&page.path)).ok().as_ref() != Some(&page.text));
    Ok(stale)
}

fn pages() -> Result<Vec<Page>, Box<dyn Error>> {
    let page = |name: &str, source: &str, text: &str| Page {
        path: Path::new("docs").join(name),
        text: format!("<!-- Printed from {source} by `cargo xtask docs`; change it there. -->\n\n{text}"),
    };
    let hadal = cargo::build_hadal()?;
    Ok(vec![
        page("recipe.md", "crates/config/src/recipe/schema.rs", &config::recipe::reference::markdown()),
        page("environment.md", "crates/config/src/env.rs", &config::env::markdown()),
        page("commands.md", "crates/cli/src/args.rs", &commands::markdown(&hadal)?),
    ])
}
