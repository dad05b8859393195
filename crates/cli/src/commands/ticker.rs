//! How far something is, for a person who waits.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// How often a line is said where it cannot be replaced.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// One line on standard error: replaced in place on a terminal, and said now and then elsewhere.
pub(super) struct Ticker {
    is_terminal: bool,
    last: Instant,
    is_shown: bool,
}

impl Ticker {
    pub(super) fn stderr() -> Self {
        Self { is_terminal: std::io::stderr().is_terminal(), last: Instant::now(), is_shown: false }
    }

    /// Shows `text`, which has no line end.
    pub(super) fn show(&mut self, text: &str) {
        if self.is_terminal {
            eprint!("\r\x1b[2K{text}");
            self.flush();
            self.is_shown = true;
        } else if self.last.elapsed() >= LINE_EVERY {
            eprintln!("{text}");
            self.last = Instant::now();
        }
    }

    /// Takes away what a terminal shows.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.is_shown) {
            eprint!("\r\x1b[2K");
            self.flush();
        }
    }

    #[expect(clippy::unused_self, reason = "standard error belongs to the ticker while it shows something")]
    fn flush(&self) {
        // Standard error that is closed is nobody's loss.
        std::io::stderr().flush().ok();
    }
}
