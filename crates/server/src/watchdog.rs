//! Somebody who notices when the engine does not come back, and who tells how far loading is.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::app::App;
use crate::health::overdue;

/// How often a load that is under way gets a line in the log.
const TELL: Duration = Duration::from_secs(10);

/// Looks every second until `stopped` is dropped. What it sees goes to the log once: who finds the server restarted wants
/// to know what it was at.
pub(crate) fn run(app: &Arc<App>, stopped: &Receiver<()>) {
    let mut was_overdue = false;
    let mut told = Instant::now();
    let mut was_looking = false;
    while matches!(stopped.recv_timeout(Duration::from_secs(1)), Err(RecvTimeoutError::Timeout)) {
        if let Some((version, progress)) = app.versions.loading()
            && told.elapsed().min(progress.elapsed()) >= TELL
        {
            tracing::info!(version, "still loading: {progress}");
            told = Instant::now();
        }
        let looking = app.versions.looking().filter(|looking| *looking > app.options.step_timeout);
        if let Some(looking) = looking.filter(|_| !was_looking) {
            tracing::error!("the directory of versions has been looked at for {looking:.0?}; does its disk answer?");
        }
        was_looking = looking.is_some();
        let problem = overdue(app);
        if let Some(problem) = problem.as_ref().filter(|_| !was_overdue) {
            for version in app.versions.told(false) {
                let stats = version.engine.map(|engine| engine.stats);
                tracing::error!(
                    version = version.number,
                    state = version.state,
                    ?stats,
                    "the server is not alive: {}",
                    problem.trim_end()
                );
            }
        } else if was_overdue && problem.is_none() {
            tracing::warn!("the server is alive again");
        }
        was_overdue = problem.is_some();
    }
}
