//! What all requests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::ApiError;
use crate::keys::{Caller, Keys};
use crate::metrics::Metrics;
use crate::options::Options;
use crate::versions::Versions;

/// A server, as its handlers see it.
pub(crate) struct App {
    pub(crate) options: Arc<Options>,
    pub(crate) versions: Arc<Versions>,
    pub(crate) keys: Option<Keys>,
    pub(crate) metrics: Arc<Metrics>,
    /// Places for work on texts: templates, tokenising, grammars.
    texts: Arc<Semaphore>,
    /// Room for bodies, in bytes.
    pub(crate) bodies: Arc<Semaphore>,
    requests: Arc<Semaphore>,
    /// Whether those who ask for readiness are told to go elsewhere.
    pub(crate) leaving: AtomicBool,
    /// Whether no more requests are taken.
    pub(crate) closed: AtomicBool,
    pub(crate) started: Instant,
    seeds: AtomicU64,
}

/// How long a request waits for a place where texts are worked on.
const TEXT_WAIT: Duration = Duration::from_secs(20);
/// Bodies that are read or looked at, together, as many times as large as one may be: as JSON values they can take thirty
/// times the room of their text.
const BODIES: usize = 2;

impl App {
    pub(crate) fn new(options: Options, keys: Option<Keys>) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let seed = options.seed.unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0);
        let bodies = options.max_body_bytes.saturating_mul(BODIES).min(Semaphore::MAX_PERMITS);
        Self {
            texts: Arc::new(Semaphore::new(threads.max(2))),
            bodies: Arc::new(Semaphore::new(bodies)),
            requests: Arc::new(Semaphore::new(options.max_requests)),
            versions: Arc::new(Versions::new()),
            keys,
            metrics: Arc::new(Metrics::new()),
            leaving: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            started: Instant::now(),
            seeds: AtomicU64::new(seed),
            options: Arc::new(options),
        }
    }

    /// A place for one more request.
    pub(crate) fn admit(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        if self.closed.load(Ordering::Acquire) {
            self.metrics.rejected("draining");
            let message = "the server is about to end and takes no more requests";
            return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "draining", message).with_retry_after(5));
        }
        self.requests.clone().try_acquire_owned().map_err(|_| {
            self.metrics.rejected("requests");
            let message = format!(
                "{} requests are being answered, and no more may be (--max-requests); try again later",
                self.options.max_requests
            );
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_requests", message).with_retry_after(1)
        })
    }

    /// Runs `work` on a thread where it holds nobody up.
    pub(crate) async fn text<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let place = tokio::time::timeout(TEXT_WAIT, self.texts.clone().acquire_owned()).await;
        let Ok(Ok(place)) = place else {
            self.metrics.rejected("text");
            let message = "the server is busy with the texts of other requests; try again later";
            return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message).with_retry_after(2));
        };
        let done = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(place);
            result
        });
        done.await.unwrap_or_else(|_| {
            self.metrics.panics.inc();
            Err(ApiError::internal("the program failed over this request; this is a fault of the program"))
        })
    }

    /// A seed for a request that brings none.
    pub(crate) fn next_seed(&self) -> u64 {
        self.seeds.fetch_add(1, Ordering::Relaxed)
    }
}

/// Requests of different keys, or with different salts, do not see each other's prompts in the cache. The same after a
/// restart, so that the cache on disk is of use.
pub(crate) fn salt(caller: &Caller, salt: Option<&str>) -> u64 {
    if caller.name.is_empty() && salt.is_none() {
        return 0;
    }
    let mut hash = Sha256::new();
    hash.update(caller.name.len().to_le_bytes());
    hash.update(&caller.name);
    hash.update(salt.unwrap_or_default());
    let bytes = hash.finalize();
    u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"))
}
