use client::{Chat, Error, Piece};
use serde_json::{Map, Value, json};
use testkit::server::{Request, Server, Step};

use crate::{api, error, models};

/// A server that thinks, answers with how many messages it was told, and gives usage.
fn answer(_: usize, request: &Request) -> Vec<Step> {
    if request.path == "/v1/models" {
        return models();
    }
    let count = request.body["messages"].as_array().map_or(0, Vec::len);
    let delta =
        |delta: Value, finish: Value| json!({ "choices": [{ "index": 0, "delta": delta, "finish_reason": finish }] });
    let mut steps = vec![Step::events()];
    if request.body["return_progress"] == true {
        for processed in [0, 4, 8] {
            let progress = json!({ "total": 8, "cache": 0, "processed": processed, "time_ms": processed });
            steps.push(Step::event(&json!({ "choices": [], "prompt_progress": progress })));
        }
    }
    steps.extend([
        Step::event(&delta(json!({ "role": "assistant", "content": null }), Value::Null)),
        Step::event(&delta(json!({ "reasoning_content": "I count." }), Value::Null)),
        Step::event(&delta(json!({ "content": format!("{count} mess") }), Value::Null)),
        Step::event(&delta(json!({ "content": "ages" }), json!("stop"))),
        Step::event(
            &json!({ "choices": [], "usage": { "prompt_tokens": 8, "completion_tokens": 5, "total_tokens": 13 } }),
        ),
        Step::done(),
    ]);
    steps
}

/// Says `text`; what came, piece by piece, and the outcome.
fn turn(chat: &mut Chat, text: &str) -> (Vec<String>, Result<client::Answer, Error>) {
    let mut pieces = Vec::new();
    let outcome = chat.turn(text, &mut |piece| {
        pieces.push(match piece {
            Piece::NoProgress => "no progress".to_owned(),
            Piece::Progress(progress) => format!("{}/{}", progress.processed, progress.total),
            Piece::Reasoning(text) => format!("({text})"),
            Piece::Content(text) => text.to_owned(),
        });
        Ok(())
    });
    (pieces, outcome)
}

#[test]
fn a_conversation_goes_on() {
    let server = Server::start(answer);
    let options = Map::from_iter([("temperature".to_owned(), json!(0.5))]);
    let mut chat = Chat::new(api(&server), None, Some("Be brief."), options, true).expect("a server");
    assert_eq!(chat.model(), "scripted");
    let (pieces, outcome) = turn(&mut chat, "one");
    assert_eq!(pieces, ["0/8", "4/8", "8/8", "(I count.)", "2 mess", "ages"]);
    let answer = outcome.expect("an answer");
    assert_eq!((answer.content.as_str(), answer.reasoning.as_str()), ("2 messages", "I count."));
    assert_eq!(
        (answer.finish_reason.as_deref(), answer.usage.map(|usage| usage.completion_tokens)),
        (Some("stop"), Some(5))
    );
    assert!(answer.times.first.is_some_and(|first| first <= answer.times.total));
    assert_eq!(turn(&mut chat, "two").1.expect("an answer").content, "4 messages");
    let body = server.requests().pop().expect("a request").body;
    assert_eq!(body["messages"][2], json!({ "role": "assistant", "content": "2 messages" }));
    assert_eq!((&body["temperature"], &body["model"]), (&json!(0.5), &json!("scripted")));
    chat.restart(None);
    assert_eq!(turn(&mut chat, "three").1.expect("an answer").content, "1 messages");
}

#[test]
fn a_server_without_progress_is_asked_once() {
    let server = Server::start(|number, request| match request.body.get("return_progress") {
        Some(_) => Step::json(400, &error("Unrecognized request argument supplied: return_progress", "unknown")),
        None => answer(number, request),
    });
    let mut chat = Chat::new(api(&server), Some("m"), None, Map::new(), true).expect("no question is asked");
    let (pieces, outcome) = turn(&mut chat, "one");
    assert_eq!(pieces, ["no progress", "(I count.)", "1 mess", "ages"]);
    outcome.expect("an answer");
    assert_eq!(turn(&mut chat, "two").0, ["(I count.)", "3 mess", "ages"]);
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn what_failed_was_not_said() {
    let server = Server::start(|number, request| match number {
        0 => Step::json(400, &error("too long", "context_length_exceeded")),
        1 => vec![Step::events(), Step::event(&json!({ "choices": [{ "delta": { "content": "ha" } }] })), Step::Cut],
        _ => answer(number, request),
    });
    let mut chat = Chat::new(api(&server), Some("m"), None, Map::new(), false).expect("no question is asked");
    assert!(matches!(turn(&mut chat, "a").1, Err(Error::Status { status: 400, .. })));
    let (pieces, outcome) = turn(&mut chat, "b");
    assert_eq!(pieces, ["ha"]);
    assert!(matches!(outcome, Err(Error::Broken { .. })));
    assert_eq!(turn(&mut chat, "c").1.expect("an answer").content, "1 messages");
}
