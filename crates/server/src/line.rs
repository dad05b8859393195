//! The line in the log of a request that has no [`Record`](crate::record::Record): it was refused before it was understood,
//! or asks for something that no model has to run for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use axum::extract::Request;
use axum::http::Method;
use axum::response::Response;

/// Whether a record writes the line of a request; an extension of the request.
#[derive(Clone, Default)]
pub(crate) struct Recorded(Arc<AtomicBool>);

impl Recorded {
    /// A record will.
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// The name of the error that a response holds; an extension of the response.
#[derive(Clone, Copy)]
pub(crate) struct Refusal(pub(crate) &'static str);

/// Written when it is dropped, so also when the client leaves before there is a response.
pub(crate) struct Line {
    id: String,
    path: String,
    is_look: bool,
    key: String,
    arrived: Instant,
    recorded: Recorded,
    status: u16,
    finish: &'static str,
}

impl Line {
    pub(crate) fn new(id: &str, path: &str, request: &Request) -> Self {
        Self {
            id: id.to_owned(),
            path: path.to_owned(),
            is_look: request.method() != Method::POST,
            key: String::new(),
            arrived: Instant::now(),
            recorded: Recorded::default(),
            status: 0,
            finish: "client_left",
        }
    }

    /// For the one who may make a record.
    pub(crate) fn recorded(&self) -> Recorded {
        self.recorded.clone()
    }

    /// The request is of the owner of the key with this name.
    pub(crate) fn of(&mut self, key: &str) {
        key.clone_into(&mut self.key);
    }

    /// There is a response.
    pub(crate) fn answered(&mut self, response: &Response) {
        self.status = response.status().as_u16();
        self.finish = response.extensions().get::<Refusal>().map_or("none", |refusal| refusal.0);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // Programs look after the server every few seconds; that all is well needs no line.
        let is_well = self.is_look && (200..400).contains(&self.status);
        if is_well || self.recorded.0.load(Ordering::Acquire) {
            return;
        }
        tracing::info!(
            target: "hadal::request",
            id = %self.id,
            path = %self.path,
            key = %self.key,
            status = self.status,
            finish = self.finish,
            total_ms = format_args!("{:.1}", self.arrived.elapsed().as_secs_f64() * 1000.0),
            "request"
        );
    }
}
