//! Documents say what is there.

use crate::crates::packages;
use crate::none;
use crate::tree::{File, files, root};

#[test]
fn every_crate_is_on_the_map() {
    let map = fs_err::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md is part of the project");
    let missing = packages().into_iter().filter(|package| !map.contains(&format!("**`{}`**", package.name)));
    let broken: Vec<String> = missing.map(|package| package.name).collect();
    none(&broken, "ARCHITECTURE.md has a paragraph that begins with **`NAME`** for every crate");
}

#[test]
fn every_recipe_is_complete() {
    let mut broken = Vec::new();
    for file in files().iter().filter(|file| file.path.starts_with("recipes/") && file.has_extension("toml")) {
        let recipe = config::Recipe::load(root().join(&file.path), &[]);
        broken.extend(recipe.err().map(|error| format!("{}: {error}", file.path)));
    }
    none(&broken, "a recipe in recipes/ is refused");
}

#[test]
fn files_that_are_named_exist() {
    let mut broken = Vec::new();
    for page in pages() {
        // Every second piece between back quotes is code; what stands between fences is an example.
        let prose: Vec<&str> = page.text.split("```").step_by(2).collect();
        for code in prose.iter().flat_map(|text| text.split('`').skip(1).step_by(2)) {
            if is_path(code) && !root().join(code).exists() {
                broken.push(format!("{}: `{code}`", page.path));
            }
        }
    }
    none(&broken, "a document names a file that does not exist");
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut broken = Vec::new();
    for page in pages() {
        for target in links(&page) {
            if !root().join(&page.path).with_file_name(&target).exists() {
                broken.push(format!("{}: {target}", page.path));
            }
        }
    }
    none(&broken, "a link leads nowhere");
}

#[test]
fn every_page_of_docs_is_linked() {
    let pages = pages();
    let mut targets = Vec::new();
    for page in &pages {
        let folder = page.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        targets.extend(links(page).map(|target| format!("{folder}/{target}").trim_start_matches('/').to_owned()));
    }
    let is_orphan = |page: &&File| page.path.starts_with("docs/") && !targets.contains(&page.path);
    let broken: Vec<String> = pages.iter().filter(is_orphan).map(|page| page.path.clone()).collect();
    none(&broken, "no document links to a page of docs/");
}

/// The Markdown files. A record of a benchmark speaks of the tree as it was on its day.
fn pages() -> Vec<File> {
    let mut pages = files();
    pages.retain(|file| file.has_extension("md") && !file.path.starts_with("benchmarks/"));
    pages
}

/// Whether a piece of code in a document means a file or folder of the project, and one that has a fixed name.
fn is_path(code: &str) -> bool {
    let folders =
        ["crates/", "deploy/", "docs/", "e2e/", "recipes/", "testdata/", "benchmarks/", "xtask/", ".ci/", "fuzz/"];
    folders.iter().any(|folder| code.starts_with(folder)) && !code.contains(['<', '*', '{', ' ', ':'])
}

/// The files that a page links to, as it names them.
fn links(page: &File) -> impl Iterator<Item = String> {
    let targets = page.text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
    targets.filter(|target| !target.is_empty() && !target.contains("://")).map(str::to_owned)
}
