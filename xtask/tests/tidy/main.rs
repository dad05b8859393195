//! The structural rules of the project, one function each. A rule collects everything that breaks it, so that one run
//! shows the whole of the work.

mod crates;
mod documents;
mod ops;
mod sources;
mod tree;
mod words;

/// Fails with what breaks a rule, and with what the rule is for.
#[track_caller]
fn none(broken: &[String], rule: &str) {
    assert!(broken.is_empty(), "{rule}:\n  {}\n", broken.join("\n  "));
}
