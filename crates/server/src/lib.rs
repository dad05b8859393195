//! A model over HTTP: OpenAI's interface and Anthropic's, for as many clients as there is room for.
//!
//! [`Server`] loads a model, answers requests ([`Server::router`]) and ends in order ([`Server::drain`]). A request passes
//! `doors` (its name, the keys), `handlers`, one of `openai` and `anthropic` (JSON to an `Ask`), and `answer`, where the
//! asynchronous world ends and the engine's thread takes over; its tokens come back through `assemble` and `stream`.
//!
//! Absent on purpose: connections (crate `listen`), model files (the caller's [`Loader`]), and any connection to the
//! outside: nothing that a request says makes the server open one.

mod answer;
mod anthropic;
mod app;
mod assemble;
mod body;
mod census;
mod clock;
mod doors;
mod error;
mod fields;
mod found;
mod handlers;
mod health;
mod keys;
mod leftovers;
mod line;
mod load;
mod manifest;
mod metrics;
mod openai;
mod options;
mod page;
mod progress;
mod prompt;
#[cfg(test)]
mod random_bodies;
mod record;
mod served;
mod stream;
mod versions;
mod watch;
mod watchdog;

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use axum::Router;
use axum::body::HttpBody;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::routing::{get, post};

pub use error::ApiError;
pub use keys::{Keys, KeysError, Scope};
pub use options::{Disk, Options, Source, VersionPolicy};
pub use served::Parts;
pub use versions::{LoadError, Loader};

use app::App;
use load::Means;
use watch::{Message, Watch};

/// A model in service.
pub struct Server {
    app: Arc<App>,
    /// Where the thread that looks for versions is told things.
    watch: Sender<Message>,
    /// What the watchdog ends with.
    dog: Mutex<Option<Sender<()>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Server {
    /// Begins to load what `options` name with `loader`, and to serve it as soon as it is there.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn start(options: Options, keys: Option<Keys>, ctx: tensor::Ctx, loader: Loader) -> std::io::Result<Self> {
        let app = Arc::new(App::new(options, keys));
        let means = Means { loader, ctx, options: app.options.clone() };
        let (thread, watch) = Watch::new(means, app.versions.clone());
        let versions = std::thread::Builder::new().name("versions".into()).spawn(move || thread.run())?;
        let (stop_dog, stopped) = channel();
        let its_app = app.clone();
        let dog =
            std::thread::Builder::new().name("watchdog".into()).spawn(move || watchdog::run(&its_app, &stopped))?;
        Ok(Self { app, watch, dog: Mutex::new(Some(stop_dog)), threads: Mutex::new(vec![versions, dog]) })
    }

    /// Everything that it answers.
    pub fn router(&self) -> Router {
        let app = self.app.clone();
        let mut router = Router::new()
            .route("/v1/chat/completions", post(handlers::chat_completions))
            .route("/v1/completions", post(handlers::completions))
            .route("/v1/messages", post(handlers::messages))
            .route("/v1/messages/count_tokens", post(handlers::count_tokens))
            .route("/v1/models", get(handlers::list_models))
            .route("/v1/models/{*name}", get(handlers::one_model))
            .route("/tokenize", post(handlers::tokenize))
            .route("/detokenize", post(handlers::detokenize))
            .route("/apply-template", post(handlers::apply_template))
            .route("/livez", get(health::live))
            .route("/readyz", get(health::ready))
            .route("/health", get(health::ready))
            .route("/startupz", get(health::started))
            .route("/metrics", get(health::metrics))
            .route("/stats", get(health::stats));
        if app.options.page {
            router = router.route("/", get(page::index)).route("/ui/{file}", get(page::part));
        }
        router
            .fallback(handlers::no_path)
            .method_not_allowed_fallback(handlers::other_method)
            // Bodies are read by `body`, within its own limits.
            .layer(DefaultBodyLimit::disable())
            .layer(axum::middleware::from_fn_with_state(app.clone(), doors::pass))
            .with_state(app)
    }

    /// Counts a connection that there was no room for.
    pub fn turned_away(&self) {
        self.app.metrics.rejected("connections");
    }

    /// Looks for versions now. Whoever asks for it says with it that what is there is whole: nothing has to rest first.
    pub fn look(&self) {
        // If nobody is there any more, health says so.
        self.watch.send(Message::Look).ok();
    }

    /// Whether a version serves.
    pub fn is_ready(&self) -> bool {
        self.app.versions.newest().is_some()
    }

    /// Why none does, once all that is there was tried.
    pub fn failure(&self) -> Option<LoadError> {
        if self.is_ready() {
            return None;
        }
        if self.app.versions.is_unwatched() {
            let message = "the thread that loads models has died, which is a fault of the program";
            return Some(LoadError(message.to_owned()));
        }
        let states = self.app.versions.states();
        let is_loading = states.values().any(|state| matches!(state, versions::State::Loading(_)));
        states.into_values().find_map(|state| match state {
            versions::State::End(error) if !is_loading => error,
            _ => None,
        })
    }

    /// Tells those who ask for `/readyz` to send no more requests; those that come are still answered.
    pub fn leave(&self) {
        self.app.leaving.store(true, Ordering::Release);
    }

    /// Takes no more requests; those that were taken go on. What is still under way when the server is dropped ends with an
    /// error.
    pub fn drain(&self) {
        self.leave();
        self.app.closed.store(true, Ordering::Release);
        self.app.versions.drain();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A load that is under way is left to itself: it may take as long as the end of the program, and not longer.
        self.watch.send(Message::Stop).ok();
        drop(self.dog.lock().unwrap_or_else(PoisonError::into_inner).take());
        for thread in std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner)) {
            // A panic of the thread has been reported where it happened.
            drop(thread.join());
        }
        // Connections that were given up still hold their versions.
        self.app.versions.stop();
    }
}

/// Puts the doors of a [`Server`] before something else that serves: keys before everything that `router` answers but its
/// health, or without keys a look at the name under which it is asked.
///
/// A browser's question whether a page may ask (a preflight) never has a key, and passes: who may ask is what `router` knows.
pub fn guarded(router: Router, keys: Option<Keys>, hosts: Vec<String>) -> Router {
    let doors = Arc::new((keys, hosts));
    router.layer(axum::middleware::from_fn(move |request: Request, next: Next| {
        let doors = doors.clone();
        async move {
            let (path, headers) = (request.uri().path(), request.headers());
            let checked = match &*doors {
                (Some(_), _) if is_preflight(&request) => Ok(()),
                (Some(keys), _) => keys.check(path, headers).map(|_| ()),
                (None, hosts) => doors::check_host(hosts, &request),
            };
            let Err(error) = checked else { return next.run(request).await };
            let (dialect, id) = (doors::Dialect::of(path, headers), doors::request_id(headers));
            doors::finish(doors::respond(&error, dialect, &id), dialect, &id, None)
        }
    }))
}

/// Whether a browser asks what a page may do. Such a question has no body: nobody without a key has one held for him.
fn is_preflight(request: &Request) -> bool {
    let headers = request.headers();
    request.method() == Method::OPTIONS
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
        && request.body().is_end_stream()
}
