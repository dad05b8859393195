//! The log of a server, on standard error.

use std::io::IsTerminal;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::args::LogFormat;

/// Lines that may wait to be written. Whoever reads standard error may stop to, and then nobody who has something to say waits
/// for him: what comes after so many lines is lost, and counted.
const WAITING: usize = 8192;

/// A log that is written. What waits is written when it is dropped, if that takes no more than a second.
pub(crate) struct Log {
    lost: ErrorCounter,
    _writer: WorkerGuard,
}

/// Begins to write what is worth knowing.
pub(crate) fn start(format: LogFormat) -> Log {
    let (stderr, writer) = NonBlockingBuilder::default().buffered_lines_limit(WAITING).finish(std::io::stderr());
    let lost = stderr.error_counter();
    let filter = EnvFilter::new("info");
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    match format {
        LogFormat::Text => {
            let colour = std::io::stderr().is_terminal() && config::env::color_allowed();
            log.with_ansi(colour).with_target(false).init();
        }
        LogFormat::Json => log.json().flatten_event(true).with_target(false).init(),
        LogFormat::Off => {}
    }
    Log { lost, _writer: writer }
}

impl Drop for Log {
    fn drop(&mut self) {
        let lines = self.lost.dropped_lines();
        if lines > 0 {
            tracing::warn!(lines, "standard error was not read fast enough, and lines of the log are lost");
        }
    }
}
