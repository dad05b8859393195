//! Whether the server lives, is ready, and how it fares.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::app::App;
use crate::metrics::BLOCK_TOKENS;
use crate::versions::State as VersionState;

/// Says no while a step of an engine takes longer than it may, and once nobody looks for versions any more: a server that
/// hangs is not alive, and whoever watches over it should start it again.
pub(crate) async fn live(State(app): State<Arc<App>>) -> Response {
    match overdue(&app) {
        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, problem).into_response(),
        None => "ok\n".into_response(),
    }
}

/// Says no while no version serves, and once the server is about to end.
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Response {
    match why_not_ready(&app) {
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
        None => "ok\n".into_response(),
    }
}

fn why_not_ready(app: &App) -> Option<String> {
    if app.leaving.load(Ordering::Acquire) {
        return Some("draining\n".to_owned());
    }
    if app.versions.newest().is_none() {
        return Some(why_not(app));
    }
    overdue(app)
}

/// Says no until a version serves, and how far loading is.
pub(crate) async fn started(State(app): State<Arc<App>>) -> Response {
    match app.versions.newest() {
        Some(_) => "ok\n".into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, why_not(&app)).into_response(),
    }
}

/// Why no version serves. Whoever asks has shown no key, so that errors, which name files, stand elsewhere.
fn why_not(app: &App) -> String {
    if let Some((version, progress)) = app.versions.loading() {
        return format!("loading version {version}: {progress}\n");
    }
    if app.versions.is_unwatched() {
        return UNWATCHED.to_owned();
    }
    let states = app.versions.states();
    let failed = states.iter().rfind(|(_, state)| matches!(state, VersionState::End(Some(_))));
    match failed {
        Some((version, _)) => {
            let name = &app.options.names[0];
            format!("version {version} cannot be served; the log and /v1/models/{name}/versions say why\n")
        }
        None => "no version is there yet\n".to_owned(),
    }
}

/// What nobody can be told but by those that watch over the server.
const UNWATCHED: &str = "the thread that looks for versions has died, which is a fault of the program\n";

/// What is overdue, if anything is.
pub(crate) fn overdue(app: &App) -> Option<String> {
    if app.versions.is_unwatched() {
        return Some(UNWATCHED.to_owned());
    }
    let limit = app.options.step_timeout;
    app.versions.states().into_iter().find_map(|(version, state)| {
        let (VersionState::Available(served) | VersionState::Unloading(served)) = state else { return None };
        let health = served.engine.health();
        if !health.is_alive {
            return Some(format!("the engine of version {version} has ended\n"));
        }
        let in_step = health.in_step.filter(|in_step| *in_step > limit)?;
        Some(format!("a step of version {version} has taken {in_step:.1?}, and may take {limit:?}\n"))
    })
}

/// `/metrics`.
pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Response {
    app.metrics.ready.set(i64::from(why_not_ready(&app).is_none()));
    let versions = app.versions.told(app.options.expert_metrics);
    let text = app.metrics.text(&app.options.names[0], &versions, app.options.vllm_metrics);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// `/stats`: what the page's charts are drawn from.
pub(crate) async fn stats(State(app): State<Arc<App>>) -> Json<Value> {
    let served = app.versions.newest();
    let stats = served.as_ref().map(|served| served.engine.stats()).unwrap_or_default();
    let state = match (&served, app.leaving.load(Ordering::Acquire)) {
        (_, true) => "draining",
        (None, _) => "loading",
        (Some(_), _) => "ready",
    };
    let (failed, ended) = app.metrics.failed_and_ended();
    let [ttft, itl, e2e] = app.metrics.recent();
    let mtp = (stats.proposed > 0).then(
        || json!({ "proposed_total": stats.proposed, "accepted_total": stats.accepted, "speedup": stats.mtp_speedup }),
    );
    let disk = stats.disk.map(|disk| {
        json!({
            "bytes": disk.bytes,
            "quota_bytes": disk.quota_bytes,
            "hits_total": disk.hits,
            "writes_total": disk.writes,
            "evictions_total": disk.evictions,
            "damaged_total": disk.damaged,
        })
    });
    let balancedness = served.as_ref().map(|served| served.balancedness()).unwrap_or_default();
    let experts = balancedness.iter().any(Option::is_some).then(|| json!({ "balancedness": balancedness }));
    Json(json!({
        "model": app.options.names[0],
        "version": served.as_ref().map(|served| served.version.to_string()),
        "state": state,
        "uptime_seconds": app.started.elapsed().as_secs_f64(),
        "max_model_len": served.as_ref().map(|served| served.max_model_len),
        "max_batch_size": app.options.engine.max_batch_size,
        "running": stats.running,
        "waiting": stats.waiting,
        "requests_total": ended,
        "failed_total": failed,
        "rejected_total": app.metrics.rejected_total(),
        "cancelled_total": app.metrics.left.get(),
        "preemptions_total": stats.preemptions,
        "prompt_tokens_total": stats.prompt_tokens,
        "generation_tokens_total": stats.answer_tokens,
        "cached_tokens_total": stats.cached_tokens,
        "queried_tokens_total": stats.queried_tokens,
        "steps_total": stats.steps,
        "kv_blocks": stats.blocks,
        "kv_blocks_used": stats.blocks_used,
        "kv_blocks_in_use": stats.blocks_in_use,
        "kv_block_tokens": BLOCK_TOKENS,
        "ttft_seconds": ttft,
        "itl_seconds": itl,
        "e2e_seconds": e2e,
        "kv_disk": disk,
        "mtp": mtp,
        "experts": experts,
    }))
}
