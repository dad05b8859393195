//! The log of a server, on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::args::LogFormat;

/// Begins to write what is worth knowing.
pub(crate) fn start(format: LogFormat) {
    let filter = EnvFilter::new("info");
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => {
            let colour = std::io::stderr().is_terminal() && config::env::color_allowed();
            log.with_ansi(colour).with_target(false).init();
        }
        LogFormat::Json => log.json().flatten_event(true).with_target(false).init(),
        LogFormat::Off => {}
    }
}
