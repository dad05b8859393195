//! The way of a request to a backend and of the answer back.

use std::error::Error as _;
use std::io::ErrorKind;
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
    let none_ready = || Refusal::NoneReady { retry_after: options.health_interval };
    if shared.fleet.up() == 0 {
        // Before a long body is read for nothing.
        return Err(none_ready());
    }
    let body = buffer::read(&parts.headers, body, options, &shared.room).await?;
    let key = key(&parts.headers, &body.bytes);
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    headers::for_backend(&mut parts.headers, id, peer, options.trust_forwarded);

    let began = Instant::now();
    let mut tried = vec![false; shared.fleet.backends.len()];
    let mut tries = 0;
    // Who failed last, and how.
    let mut last: Option<(usize, &str)> = None;
    // Of those who refused for now, the one that asks for the shortest wait.
    let mut refused: Option<(Duration, Response<Incoming>, Place)> = None;
    let mut was_broken = false;
    while let Some(place) = shared.fleet.take(key, &tried) {
        if let Some((at, reason)) = last {
            let name = shared.fleet.backends[at].name.as_str();
            shared.metrics.retries.with_label_values(&[name, reason]).inc();
        }
        let at = place.at;
        tried[at] = true;
        tries += 1;
        match attempt(shared, &parts, body.bytes.clone(), &place).await? {
            Outcome::Answer(response) => return Ok(pass(shared, &parts, id, response, place, began, tries)),
            Outcome::Busy(after, response) => {
                last = Some((at, "busy"));
                if refused.as_ref().is_none_or(|(least, ..)| after < *least) {
                    refused = Some((after, response, place));
                }
            }
            Outcome::Unreachable => last = Some((at, "unreachable")),
            // One other backend is tried: two connections that broke behind the same request broke by its doing, and it
            // shall not take down the rest.
            Outcome::Broken if was_broken || !may_be_repeated(&parts.method) => return Err(Refusal::Broken),
            Outcome::Broken => {
                last = Some((at, "broken"));
                was_broken = true;
            }
        }
    }
    match refused {
        // It says why better than a gateway could.
        Some((_, response, place)) => Ok(pass(shared, &parts, id, response, place, began, tries)),
        None if was_broken => Err(Refusal::Broken),
        None => Err(none_ready()),
    }
}

/// Refuses what is not a request for something at this address.
fn check(parts: &Parts) -> Result<(), Refusal> {
    if [Method::CONNECT, Method::TRACE].contains(&parts.method) {
        return Err(Refusal::Method);
    }
    if parts.uri.path_and_query().is_none_or(|path| !path.as_str().starts_with('/')) {
        return Err(Refusal::Target(parts.uri.to_string().chars().take(100).collect()));
    }
    if headers::wants_upgrade(&parts.headers) {
        return Err(Refusal::Upgrade);
    }
    if headers::goes_round(&parts.headers) {
        return Err(Refusal::Round);
    }
    Ok(())
}

/// What came of asking one backend. All but an answer is a reason to ask another.
enum Outcome {
    Answer(Response<Incoming>),
    /// It refused, and said when to come again.
    Busy(Duration, Response<Incoming>),
    /// It could not be connected to.
    Unreachable,
    /// The connection broke before a byte of an answer.
    Broken,
}

/// Asks one backend. An error ends the request.
async fn attempt(shared: &Shared, parts: &Parts, body: Bytes, place: &Place) -> Result<Outcome, Refusal> {
    let backend = place.backend();
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = parts.method.clone();
    *request.headers_mut() = parts.headers.clone();
    // Of the target only the path counts: neither its authority nor the header `host` decides where a request goes.
    let path = parts.uri.path_and_query().expect("a target without a path has been refused");
    *request.uri_mut() = backend.address.uri(path.clone());

    let limit = shared.options.response_timeout;
    let Ok(result) = timeout(limit, shared.client.request(request)).await else {
        // It may still work on it, so nobody else is asked.
        return Err(Refusal::Timeout { seconds: limit.as_secs_f64() });
    };
    let outcome = match result {
        Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => return Err(Refusal::Protocol),
        Ok(response) => match busy(response.status(), response.headers()) {
            None => return Ok(Outcome::Answer(response)),
            Some(after) => Outcome::Busy(after, response),
        },
        Err(error) if error.is_connect() => {
            if is_its_fault(&error) && backend.judge().unreachable() {
                tracing::warn!(backend = backend.name, reason = reason(&error), "backend is down");
            }
            Outcome::Unreachable
        }
        // One broken connection does not make a backend down: a request that breaks each would take all of them.
        Err(error) => {
            tracing::warn!(backend = backend.name, reason = reason(&error), "connection broke before an answer");
            Outcome::Broken
        }
    };
    // Whatever it was, its readiness is in doubt.
    backend.wake.notify_one();
    Ok(outcome)
}

/// Whether a connection failed on the other side, and not because this side has no more files or ports.
fn is_its_fault(error: &legacy::Error) -> bool {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return matches!(
                error.kind(),
                ErrorKind::ConnectionRefused
                    | ErrorKind::ConnectionReset
                    | ErrorKind::HostUnreachable
                    | ErrorKind::NetworkUnreachable
                    | ErrorKind::TimedOut
            );
        }
        source = error.source();
    }
    false
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

/// A backend's answer as the client's, whose end will be recorded.
fn pass(
    shared: &Shared,
    request: &Parts,
    id: &HeaderValue,
    response: Response<Incoming>,
    place: Place,
    began: Instant,
    tries: usize,
) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    headers::strip_hop_by_hop(&mut parts.headers);
    parts.version = Version::HTTP_11;
    parts.extensions.clear();

    let first_byte = began.elapsed();
    let name = place.backend().name.as_str();
    shared.metrics.requests.with_label_values(&[name, parts.status.as_str()]).inc();
    shared.metrics.first_byte.with_label_values(&[name]).observe(first_byte.as_secs_f64());
    let record = Record {
        place,
        metrics: shared.metrics.clone(),
        id: id.to_str().unwrap_or_default().to_owned(),
        method: request.method.clone(),
        path: request.uri.path().to_owned(),
        status: parts.status.as_u16(),
        began,
        first_byte,
        tries,
        bytes: 0,
    };
    Response::from_parts(parts, Body::new(Passing::new(body, shared.options.idle_timeout, record)))
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
