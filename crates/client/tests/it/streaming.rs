use std::time::Duration;

use client::{Api, CHAT, Chunk, Error, Timeouts, Wait};
use serde_json::json;
use testkit::server::{Server, Step};

use crate::{api, error, nobody, timeouts};

/// All chunks of one answer, and how it ended.
fn chunks(api: &Api) -> (Vec<Chunk>, Result<(), Error>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut chunks = Vec::new();
    let outcome = runtime.block_on(async {
        let mut stream = api.stream(CHAT, &json!({ "stream": true })).await?;
        while let Some(chunk) = stream.next().await? {
            chunks.push(chunk);
        }
        Ok(())
    });
    (chunks, outcome)
}

fn delta(text: &str) -> serde_json::Value {
    json!({ "choices": [{ "index": 0, "delta": { "content": text }, "finish_reason": null }] })
}

fn text(chunks: &[Chunk]) -> String {
    chunks.iter().flat_map(|chunk| &chunk.choices).map(client::Choice::content).collect()
}

#[test]
fn an_answer_comes_whole_however_it_is_cut() {
    let stream =
        format!(": waiting\r\n\r\ndata: {}\r\n\r\ndata: {}\n\n:\n\ndata: [DONE]\n\n", delta("Grü"), delta("ße"));
    for size in [1, 2, 7, stream.len()] {
        let pieces = stream.clone().into_bytes();
        let server = Server::start(move |_, _| {
            let mut steps = vec![Step::events()];
            steps.extend(pieces.chunks(size).map(|piece| Step::Piece(piece.to_vec())));
            steps
        });
        let (chunks, outcome) = chunks(&api(&server));
        outcome.expect("a complete answer");
        assert_eq!((text(&chunks).as_str(), chunks.len()), ("Grüße", 2));
        let request = &server.requests()[0];
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", CHAT));
        assert!(request.headers.iter().any(|header| header == "authorization: Bearer secret"), "{request:?}");
    }
}

#[test]
fn an_answer_that_ends_before_its_end_is_an_error() {
    let server = Server::start(|_, _| vec![Step::events(), Step::event(&delta("half"))]);
    let (got, outcome) = chunks(&api(&server));
    assert_eq!(text(&got), "half");
    assert!(matches!(outcome, Err(Error::CutOff { chunks: 1, .. })), "{outcome:?}");
    // The same with a torn connection, in the middle of an event and of a character.
    let server = Server::start(|_, _| {
        let torn = format!("data: {}", delta("Grüße")).into_bytes();
        let inside = torn.iter().position(|&byte| byte == 0xc3).expect("ü has two bytes") + 1;
        vec![Step::events(), Step::event(&delta("half")), Step::Piece(torn[..inside].to_vec()), Step::Cut]
    });
    let (got, outcome) = chunks(&api(&server));
    assert_eq!(text(&got), "half");
    assert!(matches!(outcome, Err(Error::Broken { chunks: 1, .. })), "{outcome:?}");
}

#[test]
fn an_error_in_the_middle_is_what_the_server_says() {
    let server = Server::start(|_, _| {
        vec![Step::events(), Step::event(&delta("half")), Step::event(&error("out of memory", "oom"))]
    });
    let (_, outcome) = chunks(&api(&server));
    let Err(Error::Event { chunks: 1, error, .. }) = outcome else { panic!("{outcome:?}") };
    assert_eq!(error.to_string(), "out of memory (oom)");
}

#[test]
fn refusals_are_read() {
    let server = Server::start(|_, _| {
        let headers = vec![("retry-after", "3".to_owned()), ("x-request-id", "r7".to_owned())];
        Step::json_with(429, headers, &error("busy", "rate_limit_exceeded"))
    });
    let (_, outcome) = chunks(&api(&server));
    let failure = outcome.expect_err("refused");
    assert!(failure.to_string().ends_with("answered 429: busy (rate_limit_exceeded); it asks to come back in 3 s"));
    let Error::Status { status: 429, retry_after, request_id, .. } = failure else { panic!("{failure:?}") };
    assert_eq!((retry_after, request_id.as_deref()), (Some(Duration::from_secs(3)), Some("r7")));
}

#[test]
fn what_is_no_stream_is_not_taken_for_one() {
    let server = Server::start(|_, _| Step::json(200, &json!({ "choices": [] })));
    let (_, outcome) = chunks(&api(&server));
    assert!(matches!(outcome, Err(Error::Unexpected { .. })), "{outcome:?}");
    let server = Server::start(|_, _| vec![Step::events(), Step::Piece(b"data: {\"choices\": 7}\n\n".to_vec())]);
    let (_, outcome) = chunks(&api(&server));
    assert!(outcome.expect_err("no chunk").to_string().contains("{\"choices\": 7}"));
}

#[test]
fn a_key_does_not_follow_a_redirect() {
    let other = Server::start(|_, _| Step::json(200, &json!({})));
    let location = format!("{}/v1/chat/completions", other.url());
    let server = Server::start(move |_, _| Step::json_with(307, vec![("location", location.clone())], &json!({})));
    let (_, outcome) = chunks(&api(&server));
    assert!(matches!(outcome, Err(Error::Status { status: 307, .. })), "{outcome:?}");
    assert!(other.requests().is_empty());
}

#[test]
fn a_server_may_close_a_connection_that_waits() {
    // Just when the next request would be sent on it.
    let server = Server::start(|_, _| {
        let mut steps = Step::json(200, &json!({ "data": [] }));
        steps.extend([Step::End, Step::Pause(Duration::from_millis(1)), Step::Cut]);
        steps
    });
    let api = api(&server);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for _ in 0..50 {
        runtime.block_on(api.post(CHAT, &json!({}))).expect("an answer");
    }
}

#[test]
fn waiting_has_an_end() {
    let short = Duration::from_millis(100);
    let slow = Duration::from_secs(2);
    let limits = |first_byte, idle| Timeouts { first_byte, idle, ..timeouts() };
    // Nothing at all; nothing after the headers, which counts as no beginning; and nothing after a piece.
    let cases = [
        (vec![Step::Pause(slow)], limits(short, slow), Wait::FirstByte),
        (vec![Step::events(), Step::Pause(slow)], limits(short, slow), Wait::FirstByte),
        (vec![Step::events(), Step::event(&delta("a")), Step::Pause(slow)], limits(slow, short), Wait::Idle),
    ];
    for (steps, limits, expected) in cases {
        let server = Server::start(move |_, _| steps.clone());
        let api = Api::new(&server.url(), None, limits).expect("an address");
        let (_, outcome) = chunks(&api);
        assert!(matches!(outcome, Err(Error::Timeout { wait, .. }) if wait == expected), "{expected:?}: {outcome:?}");
    }
    // Comments keep a stream alive.
    let server = Server::start(move |_, _| {
        let mut steps = vec![Step::events()];
        for _ in 0..6 {
            steps.extend([Step::Piece(b": wait\n\n".to_vec()), Step::Pause(Duration::from_millis(250))]);
        }
        steps.push(Step::done());
        steps
    });
    let api = Api::new(&server.url(), None, limits(Duration::from_secs(1), Duration::from_secs(1)));
    chunks(&api.expect("an address")).1.expect("it was alive");
}

#[test]
fn nobody_there_is_said_so() {
    let api = Api::new(&nobody(), None, timeouts()).expect("an address");
    let failure = chunks(&api).1.expect_err("nobody listens");
    assert!(failure.is_unreachable(), "{failure:?}");
    assert!(failure.to_string().contains("is a server running there?"), "{failure}");
    assert!(failure.to_string().to_lowercase().contains("refused"), "{failure}");
}
