//! What `hadal serve` says of flags that cannot be.

use std::process::{Command, Stdio};

/// Asserts that the flags are refused, beside a model directory, and that the message has all of `words`.
#[track_caller]
fn refused(flags: &[&str], words: &[&str]) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut command = Command::new(env!("CARGO_BIN_EXE_hadal"));
    command.args(["serve", "--port", "0", "--model"]).arg(dir.path()).args(flags).stdin(Stdio::null());
    check(&mut command, words);
}

#[track_caller]
fn check(command: &mut Command, words: &[&str]) {
    let out = command.output().expect("the program starts");
    let message = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "{command:?}: {message}");
    assert!(!message.contains("panicked"), "{message}");
    for word in words {
        assert!(message.contains(word), "{command:?}: no {word:?} in: {message}");
    }
}

#[test]
fn numbers_that_cannot_be_kept_are_refused() {
    let huge = usize::MAX.to_string();
    for flag in ["--max-requests", "--max-connections", "--max-body"] {
        refused(&[flag, &huge], &[flag, &huge, "at most"]);
        refused(&[flag, "0"], &[flag, "at least 1"]);
    }
    for seconds in ["0", "1e-9"] {
        refused(&["--poll-interval", seconds], &["--poll-interval", "at least 0.01 seconds"]);
    }
    for flag in ["--header-timeout", "--write-timeout", "--drain-timeout", "--request-timeout"] {
        for seconds in ["1e19", "inf", "NaN", "-1"] {
            refused(&[&format!("{flag}={seconds}")], &[flag, "from 0 to 1000000000"]);
        }
    }
}

#[test]
fn a_router_refuses_what_only_a_model_has() {
    let router = |flags: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hadal"));
        command.args(flags).args(["serve", "--port", "0", "--router", "http://127.0.0.1:1"]).stdin(Stdio::null());
        command
    };
    check(&mut router(&["--threads", "2"]), &["--threads", "--router"]);
    check(router(&[]).env("HADAL_CORS_ORIGIN", "https://a.example"), &["--cors-origin", "--router"]);
    check(router(&[]).arg("http://127.0.0.1:1"), &["named twice"]);
}
