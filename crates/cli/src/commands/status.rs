//! One line on the terminal that is written again and again.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// How far something is. Where standard error is no terminal, nothing is said.
pub(crate) struct Status {
    terminal: bool,
    last: Option<Instant>,
}

impl Status {
    pub(crate) fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), last: None }
    }

    /// Shows the line, unless the last one is younger than a tenth of a second.
    pub(crate) fn show(&mut self, line: impl FnOnce() -> String) {
        if self.terminal && self.last.is_none_or(|last| last.elapsed() > Duration::from_millis(100)) {
            eprint!("\r\x1b[K{}", line());
            // A line that does not reach the terminal is not worth an error.
            let _ = std::io::stderr().flush();
            self.last = Some(Instant::now());
        }
    }
}

impl Drop for Status {
    fn drop(&mut self) {
        if self.last.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}
