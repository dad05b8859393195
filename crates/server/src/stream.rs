//! Streamed answers, as server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::http::header;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use engine::Logprobs;
use tokio::sync::mpsc::Receiver;

use crate::answer::{Outcome, Piece};
use crate::assemble::Delta;
use crate::error::ApiError;
use crate::record::Record;

/// How pieces of answers are written in one of the interfaces.
pub(crate) trait Frames: Send + 'static {
    /// Before anything else.
    fn begin(&mut self) -> Vec<Event>;
    /// So much of the prompt of the answer `index` is read.
    fn progress(&mut self, index: usize, done: usize, total: usize, cached: usize) -> Vec<Event>;
    /// Probabilities of prompt tokens.
    fn prompt(&mut self, index: usize, logprobs: Vec<Logprobs>) -> Vec<Event>;
    /// More of the answer `index`.
    fn delta(&mut self, index: usize, delta: &Delta) -> Vec<Event>;
    /// The end of the answer `index`.
    fn end(&mut self, index: usize, outcome: Outcome) -> Vec<Event>;
    /// Behind the end of the last one.
    fn finish(&mut self, outcomes: &[Outcome]) -> Vec<Event>;
    /// Instead of all that would follow.
    fn error(&mut self, error: &ApiError) -> Vec<Event>;
}

/// How often a silent stream says that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

struct Stream<F> {
    frames: F,
    pieces: Receiver<(usize, Piece)>,
    outcomes: Vec<Option<Outcome>>,
    ready: VecDeque<Event>,
    is_over: bool,
    /// Kept until the last event is sent, or the client leaves.
    _record: Arc<Record>,
}

/// A response that writes `answers` answers as they come. Dropping it ends them.
pub(crate) fn respond(
    mut frames: impl Frames,
    pieces: Receiver<(usize, Piece)>,
    answers: usize,
    record: Arc<Record>,
) -> Response {
    let ready = frames.begin().into();
    let stream = Stream { frames, pieces, outcomes: vec![None; answers], ready, is_over: false, _record: record };
    let events = futures_util::stream::unfold(stream, |mut stream| async move {
        let event = stream.next().await?;
        Some((Ok::<_, Infallible>(event), stream))
    });
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE).text("waiting");
    // Proxies that collect a response before they pass it on are asked not to.
    let headers = [(header::CACHE_CONTROL, "no-store"), (header::HeaderName::from_static("x-accel-buffering"), "no")];
    (headers, Sse::new(events).keep_alive(keep_alive)).into_response()
}

impl<F: Frames> Stream<F> {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.is_over {
                return None;
            }
            let events = match self.pieces.recv().await {
                Some((i, piece)) => self.piece(i, piece),
                None => {
                    self.fail(&ApiError::internal("an answer ended without an end; this is a fault of the program"))
                }
            };
            self.ready.extend(events);
        }
    }

    fn piece(&mut self, index: usize, piece: Piece) -> Vec<Event> {
        match piece {
            Piece::Progress { done, total, cached } => self.frames.progress(index, done, total, cached),
            Piece::Prompt(logprobs) => self.frames.prompt(index, logprobs),
            Piece::Delta(delta) => self.frames.delta(index, &delta),
            Piece::End(Err(error)) => self.fail(&error),
            Piece::End(Ok(outcome)) => {
                let mut events = self.frames.end(index, outcome);
                self.outcomes[index] = Some(outcome);
                if let Some(outcomes) = self.outcomes.iter().copied().collect::<Option<Vec<_>>>() {
                    events.extend(self.frames.finish(&outcomes));
                    self.is_over = true;
                }
                events
            }
        }
    }

    /// The other answers end with it, since nobody takes their pieces any more.
    fn fail(&mut self, error: &ApiError) -> Vec<Event> {
        self.is_over = true;
        self.pieces.close();
        self.frames.error(error)
    }
}

/// An event with JSON in it.
pub(crate) fn event(data: &serde_json::Value) -> Event {
    Event::default().data(data.to_string())
}
