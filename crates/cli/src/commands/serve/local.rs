//! A server without a port: requests of this process alone.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, header};
use client::Reply;
use client::batch::Backend;
use serde_json::Value;
use server::{Options, Server, Source};
use tensor::Ctx;
use tower::ServiceExt;

use super::{gibibytes, model, name_of};
use crate::args::BatchRun;
use crate::commands::Threads;

/// Answers as a server would.
pub(crate) struct Local {
    router: Router,
    /// Ends with it.
    _server: Server,
}

impl Local {
    /// Loads the model in `dir`.
    pub(crate) fn start(threads: Threads, dir: &Path, args: &BatchRun) -> Result<Self> {
        let options = Options {
            source: Source::Model(dir.to_owned()),
            names: vec![name_of(dir)],
            // A file of requests may have been written for another server.
            accept_any_name: true,
            engine: engine::Limits {
                max_batch_size: args.concurrency.max(1),
                cache_bytes: gibibytes("--kv-memory", args.kv_memory)?,
                ..engine::Limits::default()
            },
            // Nobody waits at the other end.
            request_timeout: Duration::MAX,
            load_timeout: Duration::MAX,
            ..Options::default()
        };
        let compute = args.compute;
        let loader = Box::new(move |dir: &Path| model::load(dir, compute));
        let server = Server::start(options, None, Ctx::new(threads.with(0))?, loader).context("starting the engine")?;
        while !server.is_ready() {
            if let Some(error) = server.failure() {
                return Err(anyhow::Error::msg(error.to_string()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Self { router: server.router(), _server: server })
    }
}

impl Backend for Local {
    async fn call(&self, path: &str, body: &Value) -> Result<Reply, client::Error> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body.to_string()));
        let request = match request {
            Ok(request) => request,
            Err(error) => return Ok(refusal(format!("{path:?} is no path: {error}"))),
        };
        let Ok(response) = self.router.clone().oneshot(request).await;
        let (parts, body) = response.into_parts();
        let text = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let retry_after = text("retry-after").and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
        let request_id = text("x-request-id").map(str::to_owned);
        let status = parts.status.as_u16();
        let body = match axum::body::to_bytes(body, usize::MAX).await {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into()),
            Err(error) => return Ok(refusal(format!("the answer ended early: {error}"))),
        };
        Ok(Reply { status, body, retry_after, request_id })
    }
}

fn refusal(message: String) -> Reply {
    let error = server::ApiError::new(axum::http::StatusCode::BAD_REQUEST, "invalid_request", message);
    Reply {
        status: 400,
        body: serde_json::json!({ "error": { "message": error.message, "code": error.code } }),
        retry_after: None,
        request_id: None,
    }
}
