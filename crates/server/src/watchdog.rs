//! Somebody who notices when the engine does not come back.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use crate::app::App;
use crate::health::overdue;

/// Looks every second until `stopped` is dropped. What it sees goes to the log once: who finds the server restarted wants
/// to know what it was at.
pub(crate) fn run(app: &Arc<App>, stopped: &Receiver<()>) {
    let mut was_overdue = false;
    while matches!(stopped.recv_timeout(Duration::from_secs(1)), Err(RecvTimeoutError::Timeout)) {
        let problem = overdue(app);
        if let Some(problem) = problem.as_ref().filter(|_| !was_overdue) {
            for version in app.versions.told(false) {
                let stats = version.engine.map(|engine| engine.stats);
                tracing::error!(
                    version = version.number,
                    state = version.state,
                    ?stats,
                    "the engine hangs: {}",
                    problem.trim_end()
                );
            }
        } else if was_overdue && problem.is_none() {
            tracing::warn!("the engine goes on");
        }
        was_overdue = problem.is_some();
    }
}
