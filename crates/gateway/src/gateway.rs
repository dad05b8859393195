//! A gateway and what it answers by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::routing::get;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::error::Error;
use crate::fleet::Fleet;
use crate::forward::{Client, client, forward};
use crate::health::HealthTask;
use crate::metrics::Metrics;
use crate::options::Options;
use crate::refusal::{Refusal, json_response};

/// Connections to one backend that are kept for later.
const MAX_IDLE: usize = 64;

/// Hands requests to servers of ours. Clones are the same gateway.
#[derive(Clone)]
pub struct Gateway {
    shared: Arc<Shared>,
}

/// What all requests see.
pub(crate) struct Shared {
    pub(crate) options: Arc<Options>,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) client: Client,
    pub(crate) metrics: Arc<Metrics>,
    /// A permit for each byte of bodies that may be held.
    pub(crate) room: Arc<Semaphore>,
    is_draining: AtomicBool,
}

impl Gateway {
    /// A gateway that has not yet seen any of its backends: until [`watch`](Self::watch) has, it answers 503.
    ///
    /// # Errors
    /// When the options make no sense.
    pub fn new(options: Options) -> Result<Self, Error> {
        options.validate()?;
        let fleet = Arc::new(Fleet::new(&options.backends, options.affinity_factor));
        let shared = Shared {
            client: client(&options, MAX_IDLE),
            metrics: Arc::new(Metrics::new(&fleet)),
            room: Arc::new(Semaphore::new(options.max_buffered_bytes)),
            is_draining: AtomicBool::new(false),
            options: Arc::new(options),
            fleet,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Begins to ask the backends whether they are ready, until what it returns is stopped or dropped. One watch is
    /// enough for all clones.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn watch(&self) -> HealthTask {
        HealthTask::start(&self.shared.fleet, &self.shared.options)
    }

    /// The paths of a gateway: `/livez`, `/readyz`, `/startupz`, `/health` and `/metrics` are its own and need no key;
    /// all others are the backends'.
    ///
    /// The client's address, for `x-forwarded-for`, is taken from axum's `ConnectInfo<SocketAddr>`; a listener that does
    /// not give it sends none.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/livez", get(live))
            .route("/readyz", get(ready))
            .route("/health", get(ready))
            .route("/startupz", get(started))
            .route("/metrics", get(metrics))
            .method_not_allowed_fallback(not_allowed)
            .fallback(forward)
            .with_state(self.shared.clone())
    }

    /// From now on `/readyz` says that this gateway is not ready, so that nobody sends it new work. What comes all the
    /// same is still answered.
    pub fn drain(&self) {
        self.shared.is_draining.store(true, Ordering::Release);
    }
}

async fn live() -> Response<Body> {
    json_response(StatusCode::OK, &json!({"status": "alive"}))
}

/// Ready if any backend is. How many there are is nobody's secret, where they are is.
async fn ready(State(shared): State<Arc<Shared>>) -> Response<Body> {
    let up = shared.fleet.up();
    let (status, state) = match (shared.is_draining.load(Ordering::Acquire), up) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        (false, 0) => (StatusCode::SERVICE_UNAVAILABLE, "no backend is ready"),
        (false, _) => (StatusCode::OK, "ready"),
    };
    let body = json!({"status": state, "backends": shared.fleet.backends.len(), "backends_up": up});
    let mut response = json_response(status, &body);
    if status != StatusCode::OK {
        let seconds = shared.options.health_interval.as_secs().max(1);
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Started when every backend has been asked once.
async fn started(State(shared): State<Arc<Shared>>) -> Response<Body> {
    if shared.fleet.backends.iter().all(|backend| backend.judge().was_asked()) {
        json_response(StatusCode::OK, &json!({"status": "started"}))
    } else {
        json_response(StatusCode::SERVICE_UNAVAILABLE, &json!({"status": "starting"}))
    }
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response<Body> {
    let buffered = shared.options.max_buffered_bytes - shared.room.available_permits();
    let mut response = Response::new(Body::from(shared.metrics.text(&shared.fleet, buffered)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(prometheus::TEXT_FORMAT));
    response
}

async fn not_allowed() -> Response<Body> {
    Refusal::OwnMethod.answer("")
}
