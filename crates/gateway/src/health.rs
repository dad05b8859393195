//! Which backends are ready.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::fleet::{Backend, Fleet};
use crate::forward::{Client, client};
use crate::options::Options;

/// The shortest pause between two questions, however often requests ask for one.
const MIN_PAUSE: Duration = Duration::from_millis(50);

/// Asks the backends whether they are ready, from [`Gateway::watch`](crate::Gateway::watch) until it is stopped or
/// dropped.
#[must_use = "dropping it ends the watch, and the gateway then believes what it last saw"]
pub struct HealthTask {
    tasks: JoinSet<()>,
}

impl HealthTask {
    pub(crate) fn start(fleet: &Arc<Fleet>, options: &Arc<Options>) -> Self {
        // A connection of its own for each question: one that is kept says nothing about whether others are accepted.
        let client = client(options, 0);
        let mut tasks = JoinSet::new();
        for at in 0..fleet.backends.len() {
            let (fleet, options, client) = (fleet.clone(), options.clone(), client.clone());
            tasks.spawn(async move { watch(&fleet.backends[at], &options, &client).await });
        }
        Self { tasks }
    }

    /// Ends the questions, and returns when none is under way.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

async fn watch(backend: &Backend, options: &Options, client: &Client) {
    loop {
        let answer = ask(backend, options, client).await;
        let change = backend.judge().hear(&answer, options.fall, options.rise);
        match change {
            Some(true) => tracing::info!(backend = backend.name, "backend is up"),
            Some(false) => tracing::warn!(backend = backend.name, reason = answer.reason(), "backend is down"),
            None => {}
        }
        tokio::select! {
            () = sleep(options.health_interval) => {}
            () = backend.wake.notified() => sleep(MIN_PAUSE).await,
        }
    }
}

async fn ask(backend: &Backend, options: &Options, client: &Client) -> Answer {
    let mut request = Request::new(Full::<Bytes>::default());
    *request.uri_mut() = backend.address.uri(PathAndQuery::from_static("/readyz"));
    match timeout(options.health_timeout, client.request(request)).await {
        Ok(Ok(response)) if response.status().is_success() => Answer::Ready,
        Ok(Ok(response)) => Answer::NotReady(response.status()),
        Ok(Err(error)) => Answer::None(crate::forward::reason(&error)),
        Err(_) => Answer::None("no answer in time".to_owned()),
    }
}

/// What came of one question.
pub(crate) enum Answer {
    Ready,
    /// Its own word that it is not.
    NotReady(StatusCode),
    /// None, and why.
    None(String),
}

impl Answer {
    fn reason(&self) -> String {
        match self {
            Self::Ready => "ready".to_owned(),
            Self::NotReady(status) => format!("/readyz answered {status}"),
            Self::None(reason) => reason.clone(),
        }
    }
}

/// What is known of a backend's health.
#[derive(Debug, Default)]
pub(crate) struct Judge {
    is_up: bool,
    /// Whether it has ever been asked.
    was_asked: bool,
    /// Whether it has ever been up.
    was_up: bool,
    /// Answers in a row that speak against `is_up`.
    against: u32,
}

impl Judge {
    pub(crate) fn is_up(&self) -> bool {
        self.is_up
    }

    pub(crate) fn was_asked(&self) -> bool {
        self.was_asked
    }

    /// Takes an answer into account and says whether the backend has gone up or down by it.
    pub(crate) fn hear(&mut self, answer: &Answer, fall: u32, rise: u32) -> Option<bool> {
        self.was_asked = true;
        let is_good = matches!(answer, Answer::Ready);
        if is_good == self.is_up {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let enough = match answer {
            Answer::Ready if self.was_up => rise,
            Answer::Ready | Answer::NotReady(_) => 1,
            Answer::None(_) => fall,
        };
        (self.against >= enough).then(|| self.turn(is_good))
    }

    /// A request could not even connect. Whether that is news.
    pub(crate) fn unreachable(&mut self) -> bool {
        let is_news = self.is_up;
        self.turn(false);
        is_news
    }

    fn turn(&mut self, up: bool) -> bool {
        self.is_up = up;
        self.was_up |= up;
        self.against = 0;
        up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of a backend by answers: `+` ready, `-` not ready, `?` none, `!` a request could not connect.
    fn check(answers: &str, states: &str) {
        let mut judge = Judge::default();
        let mut seen = String::new();
        for answer in answers.chars() {
            let none = Answer::None(String::new());
            let change = match answer {
                '+' => judge.hear(&Answer::Ready, 3, 2),
                '-' => judge.hear(&Answer::NotReady(StatusCode::SERVICE_UNAVAILABLE), 3, 2),
                '?' => judge.hear(&none, 3, 2),
                _ => judge.unreachable().then_some(false),
            };
            let before = seen.chars().last().unwrap_or('d');
            seen.push(if judge.is_up() { 'u' } else { 'd' });
            let is_change = !seen.ends_with(before);
            assert_eq!(change.is_some(), is_change, "{answers}: {seen}");
        }
        assert_eq!(seen, states, "{answers}");
    }

    #[test]
    fn a_backend_goes_up_and_down_by_its_answers() {
        check("+", "u");
        check("??+??+", "dduuuu");
        check("+???", "uuud");
        // An answer in between begins the count anew.
        check("+??+??+???", "uuuuuuuuud");
        // Its own word counts at once; then it has to be ready twice.
        check("+-+++", "udduu");
        check("+-+-++", "uddddu");
        check("+!++", "uddu");
        check("!+", "du");
    }
}
