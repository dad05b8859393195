//! What no file of the project says.

use crate::none;
use crate::tree::{files, has_word};

/// Notes to oneself, and paths of one machine.
const WORDS: &[&str] = &["TODO", "FIXME", "XXX", "todo!", "unimplemented!", "/work/", "/tmp/"];

/// Hosts that a reader may be sent to. An address in the project is a promise that there is something to read.
const HOSTS: &[&str] = &[
    "arxiv.org",
    "doc.rust-lang.org",
    "github.com",
    // Names within a cluster, in deploy/kubernetes.
    "hadal-0.hadal-pods",
    "hadal-1.hadal-pods",
    "huggingface.co",
    // A schema says with it which edition it follows.
    "json-schema.org",
    "keepachangelog.com",
    "semver.org",
    "www.apache.org",
    // The name of SVG, which a file of its own must give.
    "www.w3.org",
];

/// Where dependencies come from.
const REGISTRY: &str = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";

#[test]
fn nothing_is_left_to_do_and_no_path_leads_elsewhere() {
    let mut broken = Vec::new();
    for file in files().iter().filter(|file| !file.path.starts_with("xtask/tests/tidy/")) {
        for (number, line) in (1..).zip(file.text.lines()) {
            let found = WORDS.iter().find(|word| match word.strip_suffix('!') {
                // A path may continue, a word may not.
                _ if word.starts_with('/') => line.contains(*word),
                Some(name) => line.contains(*word) && has_word(line, name),
                None => has_word(line, word),
            });
            broken.extend(found.map(|word| format!("{}:{number}: {word}", file.path)));
        }
    }
    none(&broken, "a thing left to do is done or left out, and a path holds on every machine");
}

#[test]
fn links_lead_to_known_hosts() {
    let mut broken = Vec::new();
    for file in files().iter().filter(|file| file.path != "Cargo.lock") {
        for (number, line) in (1..).zip(file.text.lines()) {
            for address in line.split("://").skip(1) {
                let end = address.find(|c: char| !(c.is_alphanumeric() || ".-".contains(c))).unwrap_or(address.len());
                let host = address[..end].trim_end_matches('.');
                // Without a dot it is a placeholder or this machine.
                if host.contains('.') && !host.starts_with("127.") && !is_reserved(host) && !HOSTS.contains(&host) {
                    broken.push(format!("{}:{number}: {host}", file.path));
                }
            }
        }
    }
    none(&broken, "a host that is not in HOSTS");
}

/// Whether a name is kept for examples and tests and leads nowhere (RFC 2606, RFC 6761).
fn is_reserved(host: &str) -> bool {
    let last = |name: &str| host == name || host.strip_suffix(name).is_some_and(|before| before.ends_with('.'));
    ["example", "invalid", "test", "example.com", "example.net", "example.org"].iter().any(|name| last(name))
}

#[test]
fn dependencies_come_from_the_public_registry() {
    let lock = files().into_iter().find(|file| file.path == "Cargo.lock").expect("Cargo.lock is part of the project");
    let sources = lock.text.lines().filter(|line| line.starts_with("source = "));
    let broken: Vec<String> = sources.filter(|line| *line != REGISTRY).map(str::to_owned).collect();
    none(&broken, "Cargo.lock names another source than crates.io");
}
