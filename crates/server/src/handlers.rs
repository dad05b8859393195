//! What each path does.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{FromRequest, Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::Value;

use crate::answer;
use crate::anthropic;
use crate::app::App;
use crate::body;
use crate::doors::{Dialect, RequestId, respond};
use crate::error::ApiError;
use crate::fields::Fields;
use crate::keys::Caller;
use crate::line::Recorded;
use crate::openai::stream::ChatFrames;
use crate::openai::{chat, completions, models, text};
use crate::record::{Described, Record};
use crate::served::Served;
use crate::stream;

/// A request with a body, not yet read.
pub(crate) struct Incoming {
    app: Arc<App>,
    id: String,
    caller: Caller,
    recorded: Recorded,
    headers: HeaderMap,
    body: axum::body::Body,
}

impl FromRequest<Arc<App>> for Incoming {
    type Rejection = std::convert::Infallible;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Self::Rejection> {
        let (parts, body) = request.into_parts();
        let id = parts.extensions.get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default();
        let caller = parts.extensions.get::<Caller>().cloned().expect("the doors say who calls");
        let recorded = parts.extensions.get::<Recorded>().cloned().unwrap_or_default();
        Ok(Self { app: app.clone(), id, caller, recorded, headers: parts.headers, body })
    }
}

/// A request whose body was read into a `T` by one of the interfaces.
struct Understood<T> {
    served: Arc<Served>,
    /// The model, as the request names it.
    model: String,
    record: Arc<Record>,
    read: T,
}

impl Incoming {
    /// Reads the body and lets `read` understand it, on a thread where that holds nobody up.
    async fn understand<T: Send + 'static>(
        self,
        path: &'static str,
        described: impl Fn(&T) -> Described,
        read: impl FnOnce(&App, &Served, &Caller, Fields) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<Understood<T>, ApiError> {
        let Self { app, id, caller, recorded, headers, body } = self;
        let place = app.admit()?;
        let arrived = Instant::now();
        let body = body::read(&app, &headers, body).await?;
        let (shared, by) = (app.clone(), caller.clone());
        let work = move || {
            let mut fields = Fields::of_body(&body.bytes)?;
            let model = fields.string("model")?;
            let served = shared.versions.find(&shared.options, model.as_deref())?;
            refuse_early(&shared, &served)?;
            let read = read(&shared, &served, &by, fields)?;
            // Its room is taken for as long as there is anything that was read of it, which may be many times as large.
            drop(body);
            Ok((served, model, read))
        };
        let (served, model, read) = app.text(work).await?;
        let model = model.unwrap_or_else(|| app.options.names[0].clone());
        let described = described(&read);
        let record = Record::new(app.metrics.clone(), place, id, path, model.clone(), caller.name, described, arrived);
        recorded.set();
        Ok(Understood { served, model, record: Arc::new(record), read })
    }

    /// Answers at once, with what `read` makes of the body.
    async fn at_once(
        self,
        read: impl FnOnce(&Served, Fields) -> Result<Value, ApiError> + Send + 'static,
    ) -> Result<Response, ApiError> {
        let Self { app, headers, body, .. } = self;
        let _place = app.admit()?;
        let body = body::read(&app, &headers, body).await?;
        let shared = app.clone();
        let work = move || {
            let mut fields = Fields::of_body(&body.bytes)?;
            let model = fields.string("model")?;
            let served = shared.versions.find(&shared.options, model.as_deref())?;
            let answer = read(&served, fields)?;
            drop(body);
            Ok(answer)
        };
        Ok(Json(app.text(work).await?).into_response())
    }
}

/// Where the queue is full, nobody's text needs to be looked at.
fn refuse_early(app: &App, served: &Served) -> Result<(), ApiError> {
    served.engine.room().map_err(|refused| {
        let error = ApiError::from(refused);
        app.metrics.rejected(error.code);
        error
    })
}

/// An error in the interface's words.
async fn or_error(
    incoming: Incoming,
    dialect: Dialect,
    answer: impl AsyncFnOnce(Incoming) -> Result<Response, ApiError>,
) -> Response {
    let id = incoming.id.clone();
    answer(incoming).await.unwrap_or_else(|error| respond(&error, dialect, &id))
}

pub(crate) async fn chat_completions(incoming: Incoming) -> Response {
    or_error(incoming, Dialect::OpenAi, async |incoming| {
        let (app, began) = (incoming.app.clone(), Instant::now());
        let described = |read: &chat::Chat| read.described.clone();
        let understood = incoming.understand("/v1/chat/completions", described, chat::read);
        let Understood { served, model, record, read } = understood.await?;
        let chat::Chat { ask, stream, include_usage, .. } = read;
        let deadline = ask.deadline;
        let id = format!("chatcmpl-{}", uuid::Uuid::new_v4().simple());
        let (answers, with_logprobs) = (ask.answers, ask.logprobs.is_some());
        let pieces = begin(&app, &served, vec![ask], &record)?;
        if !stream {
            let whole = answer::whole(pieces, answers).await?;
            return Ok(Json(chat::response(&served, &model, &id, &whole, with_logprobs)).into_response());
        }
        let (created, told) = (crate::clock::unix_seconds(), vec![(false, 0); answers]);
        let chunks = chat::Chunks { served, model, id, created, with_logprobs, told };
        Ok(stream::respond(ChatFrames { chunks, include_usage, began }, pieces, answers, deadline, record))
    })
    .await
}

pub(crate) async fn completions(incoming: Incoming) -> Response {
    or_error(incoming, Dialect::OpenAi, async |incoming| {
        let (app, began) = (incoming.app.clone(), Instant::now());
        let described = |read: &completions::Completions| read.described.clone();
        let understood = incoming.understand("/v1/completions", described, completions::read).await?;
        let Understood { served, model, record, read } = understood;
        let completions::Completions { asks, stream, include_usage, form, .. } = read;
        let id = format!("cmpl-{}", uuid::Uuid::new_v4().simple());
        let answers = asks.iter().map(|ask| ask.answers).sum();
        // All of them arrived together.
        let deadline = answer::deadline(app.options.request_timeout);
        let pieces = begin(&app, &served, asks, &record)?;
        if !stream {
            let whole = answer::whole(pieces, answers).await?;
            return Ok(Json(completions::response(&served, &model, &id, &whole, &form)).into_response());
        }
        let (created, offsets) = (crate::clock::unix_seconds(), vec![0; answers]);
        let chunks = completions::Chunks { served, model, id, created, include_usage, form, offsets, began };
        Ok(stream::respond(chunks, pieces, answers, deadline, record))
    })
    .await
}

pub(crate) async fn messages(incoming: Incoming) -> Response {
    use anthropic::request::Messages;
    or_error(incoming, Dialect::Anthropic, async |incoming| {
        anthropic::request::headers(&incoming.headers)?;
        let (app, request_id) = (incoming.app.clone(), incoming.id.clone());
        let described = |read: &Messages| read.described.clone();
        let understood = incoming.understand("/v1/messages", described, anthropic::request::read).await?;
        let Understood { served, model, record, read: Messages { ask, stream, shows_thinking, .. } } = understood;
        let id = format!("msg_{}", uuid::Uuid::new_v4().simple());
        let (stops, prompt_tokens, deadline) = (ask.drawing.stop.clone(), ask.prompt.len(), ask.deadline);
        let pieces = begin(&app, &served, vec![ask], &record)?;
        if !stream {
            let whole = answer::whole(pieces, 1).await?;
            let message = anthropic::response::response(&model, &id, &stops, &whole[0], shows_thinking);
            return Ok(Json(message).into_response());
        }
        let frames = anthropic::stream::MessageFrames::new(model, id, request_id, stops, prompt_tokens, shows_thinking);
        Ok(stream::respond(frames, pieces, 1, deadline, record))
    })
    .await
}

fn begin(
    app: &App,
    served: &Arc<Served>,
    asks: Vec<answer::Ask>,
    record: &Arc<Record>,
) -> Result<tokio::sync::mpsc::Receiver<(usize, answer::Piece)>, ApiError> {
    answer::start(app, served, asks, record).inspect_err(|error| record.failed(error))
}

pub(crate) async fn count_tokens(incoming: Incoming) -> Response {
    or_error(incoming, Dialect::Anthropic, async |incoming| {
        anthropic::request::headers(&incoming.headers)?;
        incoming.at_once(anthropic::request::count).await
    })
    .await
}

pub(crate) async fn tokenize(incoming: Incoming) -> Response {
    or_error(incoming, Dialect::OpenAi, async |incoming| incoming.at_once(text::tokenize).await).await
}

pub(crate) async fn detokenize(incoming: Incoming) -> Response {
    or_error(incoming, Dialect::OpenAi, async |incoming| incoming.at_once(text::detokenize).await).await
}

pub(crate) async fn apply_template(incoming: Incoming) -> Response {
    or_error(incoming, Dialect::OpenAi, async |incoming| incoming.at_once(text::apply_template).await).await
}

pub(crate) async fn list_models(State(app): State<Arc<App>>, Extension(dialect): Extension<Dialect>) -> Json<Value> {
    Json(match dialect {
        Dialect::OpenAi => models::list(&app),
        Dialect::Anthropic => anthropic::models::list(&app),
    })
}

pub(crate) async fn one_model(
    State(app): State<Arc<App>>,
    Extension(RequestId(id)): Extension<RequestId>,
    Extension(dialect): Extension<Dialect>,
    Path(name): Path<String>,
) -> Response {
    // Names may have slashes in them, as those of published models do.
    let found = match (name.strip_suffix("/versions"), dialect) {
        (Some(name), _) => models::versions(&app, name),
        (None, Dialect::OpenAi) => models::one(&app, &name),
        (None, Dialect::Anthropic) => anthropic::models::one(&app, &name),
    };
    found.map_or_else(|error| respond(&error, dialect, &id), |found| Json(found).into_response())
}

pub(crate) async fn no_path(
    Extension(dialect): Extension<Dialect>,
    Extension(RequestId(id)): Extension<RequestId>,
) -> Response {
    respond(&ApiError::new(StatusCode::NOT_FOUND, "not_found", "there is nothing under this path"), dialect, &id)
}

pub(crate) async fn other_method(
    Extension(dialect): Extension<Dialect>,
    Extension(RequestId(id)): Extension<RequestId>,
) -> Response {
    let message = "this path is asked with another method";
    respond(&ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message), dialect, &id)
}
