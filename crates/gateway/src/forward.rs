//! The way of a request to a backend and of the answer back.

use std::error::Error as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, State};
use bytes::Bytes;
use http::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::{Instant, timeout};

use crate::answer::{Passing, Record};
use crate::buffer;
use crate::fleet::Place;
use crate::gateway::Shared;
use crate::headers;
use crate::key::key;
use crate::options::Options;
use crate::refusal::Refusal;

pub(crate) type Client = legacy::Client<HttpConnector, Full<Bytes>>;

/// A client that keeps at most `max_idle` connections to each backend for later.
pub(crate) fn client(options: &Options, max_idle: usize) -> Client {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(options.connect_timeout));
    // A token is sent when it is there and does not wait for the next.
    connector.set_nodelay(true);
    // A machine that vanished answers no probes; without them a stream from it would stay until it counts as idle.
    connector.set_keepalive(Some(Duration::from_secs(30)));
    legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(options.pool_idle_timeout)
        .pool_max_idle_per_host(max_idle)
        .build(connector)
}

/// Answers a request with a backend's answer, or says why there is none.
pub(crate) async fn forward(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let id = headers::request_id(&parts.headers);
    let path = parts.uri.path().to_owned();
    let mut response = match answer(&shared, parts, body, &id).await {
        Ok(response) => response,
        Err(refusal) => {
            let response = refusal.answer(&path);
            let status = response.status();
            shared.metrics.requests.with_label_values(&["", status.as_str()]).inc();
            tracing::info!(
                request_id = id.to_str().unwrap_or_default(),
                path,
                status = status.as_u16(),
                reason = %refusal,
                "request refused"
            );
            response
        }
    };
    response.headers_mut().insert(headers::X_REQUEST_ID, id);
    response
}

async fn answer(
    shared: &Arc<Shared>,
    mut parts: Parts,
    body: Body,
    id: &HeaderValue,
) -> Result<Response<Body>, Refusal> {
    check(&parts)?;
    let options = &shared.options;
    let body = buffer::read(&parts.headers, body, options, &shared.room).await?;
    let key = key(&parts.headers, &body.bytes);
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    headers::for_backend(&mut parts.headers, id, peer, options.trust_forwarded);

    let began = Instant::now();
    let mut tried = vec![false; shared.fleet.backends.len()];
    let mut tries = 0;
    // Who failed last, and how.
    let mut last: Option<(usize, Failure)> = None;
    let mut retry_after: Option<Duration> = None;
    let mut was_broken = false;
    while let Some(place) = shared.fleet.take(key, &tried) {
        if let Some((at, failure)) = &last {
            let name = shared.fleet.backends[*at].name.as_str();
            shared.metrics.retries.with_label_values(&[name, failure.name()]).inc();
        }
        tried[place.at] = true;
        tries += 1;
        let at = place.at;
        match attempt(shared, &parts, body.bytes.clone(), &place).await? {
            Ok(response) => {
                let first_byte = began.elapsed();
                let status = response.status();
                let name = place.backend().name.as_str();
                shared.metrics.requests.with_label_values(&[name, status.as_str()]).inc();
                shared.metrics.first_byte.with_label_values(&[name]).observe(first_byte.as_secs_f64());
                let record = Record {
                    place,
                    metrics: shared.metrics.clone(),
                    id: id.to_str().unwrap_or_default().to_owned(),
                    method: parts.method.clone(),
                    path: parts.uri.path().to_owned(),
                    status: status.as_u16(),
                    began,
                    first_byte,
                    tries,
                    bytes: 0,
                };
                return Ok(pass(response, options.idle_timeout, record));
            }
            Err(failure) => {
                match failure {
                    Failure::Busy(after) => retry_after = Some(retry_after.map_or(after, |least| least.min(after))),
                    Failure::Broken if !may_be_repeated(&parts.method) => return Err(Refusal::Broken),
                    Failure::Broken => was_broken = true,
                    Failure::Unreachable => {}
                }
                last = Some((at, failure));
            }
        }
    }
    match retry_after {
        Some(retry_after) => Err(Refusal::AllBusy { retry_after }),
        None if was_broken => Err(Refusal::Broken),
        None => Err(Refusal::NoneReady { retry_after: options.health_interval }),
    }
}

/// Refuses what is not a request for something at this address.
fn check(parts: &Parts) -> Result<(), Refusal> {
    if [Method::CONNECT, Method::TRACE].contains(&parts.method) {
        return Err(Refusal::Method);
    }
    if parts.uri.path_and_query().is_none_or(|path| !path.as_str().starts_with('/')) {
        return Err(Refusal::Target(parts.uri.to_string()));
    }
    if headers::wants_upgrade(&parts.headers) {
        return Err(Refusal::Upgrade);
    }
    if headers::goes_round(&parts.headers) {
        return Err(Refusal::Round);
    }
    Ok(())
}

/// Why another backend is tried.
#[derive(Clone, Copy)]
enum Failure {
    /// It refused, and said when to come again.
    Busy(Duration),
    /// It could not be connected to.
    Unreachable,
    /// The connection broke before a byte of an answer.
    Broken,
}

impl Failure {
    fn name(self) -> &'static str {
        match self {
            Self::Busy(_) => "busy",
            Self::Unreachable => "unreachable",
            Self::Broken => "broken",
        }
    }
}

/// Asks one backend. An error of the outer kind ends the request.
async fn attempt(
    shared: &Shared,
    parts: &Parts,
    body: Bytes,
    place: &Place,
) -> Result<Result<Response<Incoming>, Failure>, Refusal> {
    let backend = place.backend();
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = parts.method.clone();
    *request.headers_mut() = parts.headers.clone();
    // Of the target only the path counts: neither its authority nor the header `host` decides where a request goes.
    let path = parts.uri.path_and_query().expect("a target without a path has been refused");
    *request.uri_mut() = backend.address.uri(path.clone());

    let limit = shared.options.response_timeout;
    let Ok(outcome) = timeout(limit, shared.client.request(request)).await else {
        // It may still work on it, so nobody else is asked.
        return Err(Refusal::Timeout { seconds: limit.as_secs_f64() });
    };
    let failure = match outcome {
        Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => return Err(Refusal::Protocol),
        Ok(response) => match busy(response.status(), response.headers()) {
            None => return Ok(Ok(response)),
            Some(after) => Failure::Busy(after),
        },
        Err(error) if error.is_connect() => {
            if backend.judge().unreachable() {
                tracing::warn!(backend = backend.name, reason = reason(&error), "backend is down");
            }
            Failure::Unreachable
        }
        // One broken connection does not make a backend down: a request that breaks each would take all of them.
        Err(error) => {
            tracing::warn!(backend = backend.name, reason = reason(&error), "connection broke before an answer");
            Failure::Broken
        }
    };
    // Whatever it was, its readiness is in doubt.
    backend.wake.notify_one();
    Ok(Err(failure))
}

/// Whether a backend refused for now, and for how long.
fn busy(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    let after = headers.get(RETRY_AFTER).filter(|_| status == StatusCode::SERVICE_UNAVAILABLE)?;
    // Our servers send seconds. A date says that it is for now, too.
    let seconds = after.to_str().ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1);
    Some(Duration::from_secs(seconds))
}

/// Whether a request that may have been begun can be begun again. Generating has no effects but its answer.
fn may_be_repeated(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::POST].contains(method)
}

fn pass(response: Response<Incoming>, idle_timeout: Duration, record: Record) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    headers::strip_hop_by_hop(&mut parts.headers);
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    Response::from_parts(parts, Body::new(Passing::new(body, idle_timeout, record)))
}

/// An error with what is behind it, in one line.
pub(crate) fn reason(error: &legacy::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
