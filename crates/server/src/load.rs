//! Bringing a version into service: its files are checked and read, its engine started, and a token asked for before anybody
//! waits for one.
//!
//! A load has a thread of its own, so that whoever looks for versions can stop waiting for it: a file that is never read to
//! its end, or a device that does not answer, holds up nothing but the load.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use engine::{DiskOptions, Event, Request, Sink};

use crate::found::Mark;
use crate::manifest::Manifest;
use crate::options::{Disk, Options};
use crate::progress::{Progress, Stage};
use crate::served::Served;
use crate::versions::{LoadError, Loader};

/// How often a load that waits for its first token looks whether anybody wants it still.
const LOOK: Duration = Duration::from_millis(50);

/// What all loads share.
pub(crate) struct Means {
    pub(crate) loader: Loader,
    pub(crate) ctx: tensor::Ctx,
    pub(crate) options: Arc<Options>,
}

/// A load that is under way. Dropping it gives it up: it ends before its next stage, and what it has made is dropped.
pub(crate) struct Load {
    pub(crate) version: u64,
    pub(crate) dir: PathBuf,
    /// What the directory was like when it began.
    pub(crate) mark: Mark,
    pub(crate) progress: Arc<Progress>,
    given_up: Arc<AtomicBool>,
}

impl Load {
    /// Begins to load `dir` as `version`; `done` hears of its end, whatever that is.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub(crate) fn begin(
        means: &Arc<Means>,
        version: u64,
        dir: &Path,
        mark: Mark,
        manifest: Option<Manifest>,
        done: impl FnOnce(Result<Arc<Served>, LoadError>) + Send + 'static,
    ) -> std::io::Result<Self> {
        let load = Self {
            version,
            dir: dir.to_owned(),
            mark,
            progress: Arc::new(Progress::new()),
            given_up: Arc::new(AtomicBool::new(false)),
        };
        let (means, dir) = (means.clone(), dir.to_owned());
        let (progress, given_up) = (load.progress.clone(), load.given_up.clone());
        std::thread::Builder::new().name("load".into()).spawn(move || {
            let run = || start(&means, version, &dir, manifest.as_ref(), &progress, &given_up);
            done(catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
                let said = panic.downcast_ref::<String>().map(String::as_str);
                let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it said nothing");
                Err(LoadError(format!(
                    "the program failed while it loaded it, which is a fault of the program: {said}"
                )))
            }));
        })?;
        Ok(load)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.given_up.store(true, Ordering::Release);
    }
}

fn start(
    means: &Means,
    version: u64,
    dir: &Path,
    manifest: Option<&Manifest>,
    progress: &Progress,
    given_up: &Arc<AtomicBool>,
) -> Result<Arc<Served>, LoadError> {
    let go_on = || {
        if given_up.load(Ordering::Acquire) { Err(LoadError("the load was given up".to_owned())) } else { Ok(()) }
    };
    if let Some(manifest) = manifest {
        progress.enter(Stage::Checking { done: 0, total: manifest.hashed_bytes() });
        manifest.check(dir, |bytes| {
            progress.checked(bytes);
            go_on()
        })?;
    }
    progress.enter(Stage::Reading);
    let parts = (means.loader)(dir)?;
    go_on()?;
    progress.enter(Stage::Starting);
    let Options { engine, max_model_len, .. } = *means.options;
    let disk = means.options.disk.as_ref().map(|Disk { dir, quota_bytes }| {
        DiskOptions::new(dir.join(crate::leftovers::name_of(version)), *quota_bytes, parts.latents_identity)
    });
    let served = Served::start(means.ctx.clone(), parts, version, engine, max_model_len, disk)?;
    go_on()?;
    progress.enter(Stage::Warming);
    let (sender, receiver) = channel();
    let mut request = Request::new(vec![served.tokenizer.special_tokens().bos.unwrap_or(0)], 1);
    request.sampling.temperature = 0.0;
    served
        .engine
        .submit(request, Box::new(Once { sender, given_up: given_up.clone() }))
        .map_err(|error| LoadError(format!("asking for a first token: {error}")))?;
    loop {
        match receiver.recv_timeout(LOOK) {
            Ok(Ok(())) => return Ok(Arc::new(served)),
            Ok(Err(error)) => return Err(LoadError(format!("the first token: {error}"))),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(LoadError("the engine ended before its first token".to_owned()));
            }
            Err(RecvTimeoutError::Timeout) => go_on()?,
        }
    }
}

/// Waits for the end of one answer.
struct Once {
    sender: std::sync::mpsc::Sender<Result<(), engine::Error>>,
    given_up: Arc<AtomicBool>,
}

impl Sink for Once {
    fn send(&mut self, event: Event) {
        if let Event::End(end) = event {
            // Whoever has stopped waiting does not need to know.
            self.sender.send(end.map(|_| ())).ok();
        }
    }

    fn is_closed(&self) -> bool {
        self.given_up.load(Ordering::Acquire)
    }
}
