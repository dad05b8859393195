use std::collections::VecDeque;

use reqwest::Response;
use serde_json::Value;
use tokio::time::timeout;

use crate::api::Timeouts;
use crate::error::{ApiError, Error, Wait, excerpt};
use crate::sse::{Event, MAX_EVENT_BYTES, Parser};
use crate::wire::Chunk;

/// An answer as it comes. Dropping it closes the connection, which tells the server that nobody waits any more.
pub struct Stream {
    response: Response,
    url: String,
    timeouts: Timeouts,
    has_begun: bool,
    parser: Parser,
    /// Events that have come and were not asked for yet.
    events: VecDeque<Event>,
    chunks: u64,
    is_done: bool,
}

impl Stream {
    pub(crate) fn new(response: Response, url: &str, timeouts: Timeouts) -> Self {
        let (parser, events) = (Parser::default(), VecDeque::new());
        Self { response, url: url.to_owned(), timeouts, has_begun: false, parser, events, chunks: 0, is_done: false }
    }

    /// The next chunk; `None` after `[DONE]`.
    ///
    /// # Errors
    /// The server failed, the stream ended before `[DONE]` or stands still, or it is none.
    pub async fn next(&mut self) -> Result<Option<Chunk>, Error> {
        while !self.is_done {
            if let Some(event) = self.events.pop_front() {
                if event.data.trim() == "[DONE]" {
                    self.is_done = true;
                    break;
                }
                let chunk = self.read(&event)?;
                self.chunks += 1;
                return Ok(Some(chunk));
            }
            let (url, chunks) = (|| self.url.clone(), self.chunks);
            // Some servers send the headers at once and nothing more until they have read the prompt.
            let Timeouts { first_byte, idle, .. } = self.timeouts;
            let (wait, limit) = if self.has_begun { (Wait::Idle, idle) } else { (Wait::FirstByte, first_byte) };
            let bytes = timeout(limit, self.response.chunk())
                .await
                .map_err(|_| Error::Timeout { url: url(), wait, limit })?
                .map_err(|cause| Error::Broken { url: url(), chunks, cause })?
                .ok_or_else(|| Error::CutOff { url: url(), chunks })?;
            self.has_begun = true;
            let what = "line or event";
            self.parser.push(&bytes, &mut self.events).map_err(|_| Error::TooLong {
                url: url(),
                what,
                limit_bytes: MAX_EVENT_BYTES,
            })?;
        }
        Ok(None)
    }

    fn read(&self, event: &Event) -> Result<Chunk, Error> {
        let wrong = || {
            let (url, found) = (self.url.clone(), excerpt(event.data.as_bytes()));
            Error::Unexpected { url, expected: "chunk of an answer", found }
        };
        let value: Value = serde_json::from_str(&event.data).map_err(|_| wrong())?;
        if event.name == "error" || value.get("error").is_some_and(|error| !error.is_null()) {
            let error = Box::new(ApiError::from_value(&value));
            return Err(Error::Event { url: self.url.clone(), chunks: self.chunks, error });
        }
        serde_json::from_value(value).map_err(|_| wrong())
    }
}
