//! Streamed answers, as server-sent events.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

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

/// What is ready when the time of a request is over may be read for so long. Whoever reads it byte by byte would otherwise hold
/// a place among the requests for hours.
const GRACE: Duration = Duration::from_secs(5);
/// How often a silent stream says that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

struct Stream<F> {
    frames: F,
    pieces: Receiver<(usize, Piece)>,
    outcomes: Vec<Option<Outcome>>,
    ready: VecDeque<Event>,
    is_over: bool,
    /// When it ends even if not all of it is read.
    cut: Instant,
    /// Kept until the last event is sent, or the client leaves.
    _record: Arc<Record>,
}

/// A response that writes `answers` answers as they come. Dropping it ends them.
pub(crate) fn respond(
    mut frames: impl Frames,
    pieces: Receiver<(usize, Piece)>,
    answers: usize,
    deadline: Instant,
    record: Arc<Record>,
) -> Response {
    let ready = frames.begin().into();
    let (outcomes, cut) = (vec![None; answers], deadline + GRACE);
    let stream = Stream { frames, pieces, outcomes, ready, is_over: false, cut, _record: record };
    let events = futures_util::stream::unfold(Some(stream), |stream| async move {
        let mut stream = stream?;
        if Instant::now() > stream.cut {
            return Some((Err(ReadTooLate), None));
        }
        let event = stream.next().await?;
        Some((Ok(event), Some(stream)))
    });
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE).text("waiting");
    // Proxies that collect a response before they pass it on are asked not to.
    let headers = [(header::CACHE_CONTROL, "no-store"), (header::HeaderName::from_static("x-accel-buffering"), "no")];
    (headers, Sse::new(events).keep_alive(keep_alive)).into_response()
}

/// Ends a connection.
#[derive(Debug, thiserror::Error)]
#[error("the client has not read its answer in time")]
struct ReadTooLate;

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

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use tokio::sync::Semaphore;
    use tokio::sync::mpsc::channel;

    use super::*;
    use crate::metrics::Metrics;
    use crate::record::Described;

    /// Says "more" of every delta.
    struct Words;

    impl Frames for Words {
        fn begin(&mut self) -> Vec<Event> {
            vec![Event::default().data("begin")]
        }

        fn progress(&mut self, _: usize, _: usize, _: usize, _: usize) -> Vec<Event> {
            Vec::new()
        }

        fn prompt(&mut self, _: usize, _: Vec<Logprobs>) -> Vec<Event> {
            Vec::new()
        }

        fn delta(&mut self, _: usize, _: &Delta) -> Vec<Event> {
            vec![Event::default().data("more")]
        }

        fn end(&mut self, _: usize, _: Outcome) -> Vec<Event> {
            Vec::new()
        }

        fn finish(&mut self, _: &[Outcome]) -> Vec<Event> {
            Vec::new()
        }

        fn error(&mut self, error: &ApiError) -> Vec<Event> {
            vec![Event::default().data(error.code)]
        }
    }

    /// A stream of one answer, of which two deltas are there and no end will come.
    async fn read(deadline: Instant) -> Result<String, axum::Error> {
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let name = String::new;
        let record = Record::new(
            Arc::new(Metrics::new()),
            place,
            name(),
            "/",
            name(),
            name(),
            Described::default(),
            Instant::now(),
        );
        let (sender, pieces) = channel(8);
        for _ in 0..2 {
            sender.send((0, Piece::Delta(Delta::default()))).await.unwrap();
        }
        drop(sender);
        let body = respond(Words, pieces, 1, deadline, Arc::new(record)).into_body();
        to_bytes(body, 1 << 20).await.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn who_reads_too_late_is_cut_off() {
        let now = Instant::now();
        let text = read(now).await.unwrap();
        assert_eq!(text, "data: begin\n\ndata: more\n\ndata: more\n\ndata: internal_error\n\n");
        let long_ago = now.checked_sub(GRACE + Duration::from_secs(1)).unwrap();
        assert!(read(long_ago).await.unwrap_err().to_string().contains("not read its answer in time"));
    }
}
