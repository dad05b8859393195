//! The commands that talk to a server, as a user runs them, against a server whose every byte is scripted.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use testkit::server::{Request, Server, Step};

/// Exit code, standard output, standard error.
fn hadal(arguments: &[&str], input: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hadal"));
    command.args(arguments).env("TEST_KEY", "from-the-environment");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // A program that refuses its arguments does not read.
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).ok();
    let out = child.wait_with_output().expect("the program ends");
    let text = |bytes| String::from_utf8(bytes).expect("output is text");
    (out.status.code(), text(out.stdout), text(out.stderr))
}

/// Asserts the exit code and that the message has all of `words`.
#[track_caller]
fn fail(arguments: &[&str], code: i32, words: &[&str]) {
    let (found, _, err) = hadal(arguments, "hello\n");
    assert_eq!(found, Some(code), "{arguments:?}: {err}");
    for word in words {
        assert!(err.contains(word), "{arguments:?}: no {word:?} in: {err}");
    }
}

fn text(path: &Path) -> String {
    path.to_str().expect("a path of text").to_owned()
}

/// A server that thinks and repeats what was said, in two chunks of two tokens, streamed or whole.
fn parrot(_: usize, request: &Request) -> Vec<Step> {
    if request.path == "/v1/models" {
        return Step::json(200, &json!({ "data": [{ "id": "parrot" }] }));
    }
    let said = request.body["messages"].as_array().and_then(|messages| messages.last()).map(|last| &last["content"]);
    let said = said.and_then(Value::as_str).unwrap_or("tokens");
    if request.body["stream"] != true {
        return Step::json(200, &json!({ "choices": [{ "message": { "content": said } }] }));
    }
    let chunk = |thought: Option<&str>, content: &str| {
        let delta = json!({ "reasoning_content": thought, "content": content });
        Step::event(&json!({ "choices": [{ "index": 0, "delta": delta, "text": content, "finish_reason": "stop" }] }))
    };
    let usage = json!({ "prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13 });
    vec![
        Step::events(),
        chunk(Some("Hm."), ""),
        Step::Pause(Duration::from_millis(3)),
        chunk(None, said),
        chunk(None, "!"),
        Step::event(&json!({ "choices": [], "usage": usage })),
        Step::done(),
    ]
}

#[test]
fn a_conversation_in_a_pipe_is_the_answers_alone() {
    let server = Server::start(parrot);
    let input = "one\n/system Be brief.\n/system\n/stats\n\ntwo\n/new\nthree\n/quit\nnever\n";
    let arguments = ["chat", "--url", &server.url(), "--temperature", "0.7", "--api-key-env", "TEST_KEY"];
    let (code, out, err) = hadal(&arguments, input);
    assert_eq!((code, out.as_str()), (Some(0), "one!\ntwo!\nthree!\n"), "{err}");
    assert!(err.contains("Hm.\n") && err.contains("Be brief.") && err.contains("answer of 4 tokens"), "{err}");
    let requests = server.requests();
    assert_eq!(requests.len(), 4);
    let last = &requests[3];
    let messages = json!([{ "role": "system", "content": "Be brief." }, { "role": "user", "content": "three" }]);
    assert_eq!(last.body["messages"], messages);
    assert_eq!((&last.body["model"], &last.body["temperature"]), (&json!("parrot"), &json!(0.7)));
    // Nobody watches, so nobody asks how far the prompt is read.
    assert!(last.body.get("return_progress").is_none());
    assert!(last.headers.iter().any(|header| header == "authorization: Bearer from-the-environment"), "{last:?}");
}

#[test]
fn arguments_that_contradict_each_other_are_refused() {
    fail(&["chat"], 2, &["--model"]);
    fail(&["chat", "--url", "http://127.0.0.1:1", "--dtype", "f32"], 2, &["--dtype"]);
    fail(&["chat", "--model", "m", "--api-key-env", "TEST_KEY"], 2, &["--url"]);
    fail(&["chat", "--url", "127.0.0.1:8000"], 2, &["write it like http://127.0.0.1:8000"]);
    fail(&["chat", "--url", "http://127.0.0.1:1", "--api-key-env", "NOT_SET_ANYWHERE"], 2, &["NOT_SET_ANYWHERE"]);
    let bench = ["bench", "serve", "--url", "http://127.0.0.1:1"];
    fail(&[&bench[..], &["--requests", "1"]].concat(), 2, &["--concurrency", "--rate"]);
    fail(&[&bench[..], &["--rate", "1"]].concat(), 2, &["--requests", "--seconds"]);
    let bench = [&bench[..], &["--concurrency", "1", "--requests", "1"]].concat();
    fail(&[&bench[..], &["--slo", "speed=1"]].concat(), 2, &["none of ttft, itl, tpot and e2e"]);
    fail(&[&bench[..], &["--extra", "[]"]].concat(), 2, &["must be an object"]);
    fail(&[&bench[..], &["--shared-prefix-tokens", "300"]].concat(), 2, &["longer than the prompts"]);
    fail(&[&bench[..], &["--dataset", "x", "--input-tokens", "3"]].concat(), 2, &["--input-tokens"]);
}

#[test]
fn a_server_that_is_not_there_has_a_code_of_its_own() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    let words = ["cannot reach", "is a server running there?"];
    fail(&["chat", "--url", &url], 4, &words);
    fail(&["chat", "--url", &url, "--model", "m"], 4, &words);
    fail(&["bench", "serve", "--url", &url, "--concurrency", "1", "--requests", "1"], 4, &words);
    let (input, output) = (dir.path().join("in.jsonl"), dir.path().join("out.jsonl"));
    fs_err::write(&input, batch(3)).expect("written");
    fail(&["batch", "run", &text(&input), "-o", &text(&output), "--url", &url], 4, &words);
    assert_eq!(fs_err::read_to_string(output).expect("made"), "");
}

#[test]
fn a_load_is_reported_in_three_forms() {
    let server = Server::start(|number, request| match number {
        // One of the ten that follow the list of models and the warm-up.
        5 => Step::json(503, &json!({ "error": { "message": "full", "code": "overloaded" } })),
        _ => parrot(number, request),
    });
    let dir = tempfile::tempdir().expect("a temporary directory");
    let csv = text(&dir.path().join("rows.csv"));
    let url = server.url();
    let load = ["bench", "serve", "--url", &url, "--concurrency", "2", "--requests", "10", "--output-tokens", "4"];
    let more = ["--slo", "ttft=30,e2e=60", "--csv", &csv, "--json"];
    let (code, out, err) = hadal(&[&load[..], &more].concat(), "");
    assert_eq!(code, Some(0), "{err}");
    let report: Value = serde_json::from_str(&out).expect("a report is JSON");
    assert_eq!((&report["completed"], &report["failed"]), (&json!(9), &json!(1)));
    assert_eq!(report["errors"]["status_503"]["count"], 1);
    assert_eq!((&report["output_tokens"], &report["goodput"]["good"]), (&json!(36), &json!(9)));
    assert_eq!((&report["ttft"]["count"], &report["itl"]["count"]), (&json!(9), &json!(18)));
    assert_eq!((&report["model"], &report["plan"]["arrivals"]["loop"]), (&json!("parrot"), &json!("closed")));
    assert_eq!(report["plan"]["prompts"]["input_tokens"], 256);
    assert!(report["e2e"]["p50"].as_f64().expect("a time") >= 0.003);
    let rows = fs_err::read_to_string(&csv).expect("rows");
    assert_eq!(rows.lines().count(), 11);
    assert_eq!(rows.lines().filter(|row| row.contains("status_503")).count(), 1);
    let (code, out, err) = hadal(&load, "");
    assert_eq!(code, Some(0), "{err}");
    for part in ["TTFT", "ITL", "TPOT", "E2E", "output tokens/s", "10 requests complete, 0 failed", "1.33 tokens"] {
        assert!(out.contains(part), "no {part} in {out}");
    }
    // A server that answers nothing is a failure, and what it said is in the report.
    let server = Server::start(|number, request| match number {
        0 => parrot(number, request),
        _ => Step::json(500, &json!({ "error": { "message": "broken" } })),
    });
    let url = server.url();
    let load = ["bench", "serve", "--url", &url, "--rate", "500", "--requests", "3", "--warmup", "0"];
    let (code, out, _) = hadal(&load, "");
    assert_eq!(code, Some(1), "{out}");
    assert!(out.contains("failed: 3 status_500") && out.contains("broken"), "{out}");
}

/// A batch of `n` requests.
fn batch(n: usize) -> String {
    let line = |i: usize| {
        let body = json!({ "model": "parrot", "messages": [{ "role": "user", "content": format!("say {i}") }] });
        json!({ "custom_id": format!("r{i}"), "method": "POST", "url": "/v1/chat/completions", "body": body })
    };
    (0..n).map(|i| line(i).to_string() + "\n").collect()
}

#[test]
fn a_batch_that_was_killed_goes_on() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (input, output) = (dir.path().join("in.jsonl"), dir.path().join("out.jsonl"));
    fs_err::write(&input, batch(60)).expect("written");
    let asked = std::sync::Arc::new(AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&asked);
    let server = Server::start(move |number, request| {
        count.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(20));
        parrot(number, request)
    });
    let url = server.url();
    let (input, path) = (text(&input), text(&output));
    let arguments = ["batch", "run", &input, "-o", &path, "--url", &url, "--concurrency", "4"];
    let mut child = Command::new(env!("CARGO_BIN_EXE_hadal"))
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    while asked.load(Ordering::SeqCst) < 20 {
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    let before = fs_err::read_to_string(&output).expect("answers").lines().count();
    assert!((1..60).contains(&before), "{before}");
    let asked_before = asked.load(Ordering::SeqCst);
    let (code, out, err) = hadal(&arguments, "");
    assert_eq!((code, out.as_str()), (Some(0), ""), "{err}");
    assert!(err.contains(&format!("60 of 60 requests answered, {before} before")), "{err}");
    assert_eq!(asked.load(Ordering::SeqCst) - asked_before, 60 - before);
    let answers = fs_err::read_to_string(&output).expect("answers");
    let lines: Vec<Value> = answers.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let mut ids: Vec<&str> = lines.iter().map(|line| line["custom_id"].as_str().expect("a name")).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((ids.len(), lines.len()), (60, 60));
    for line in &lines {
        let said = line["response"]["body"]["choices"][0]["message"]["content"].as_str().expect("an answer");
        assert_eq!(format!("r{}", said.trim_start_matches("say ")), line["custom_id"].as_str().expect("a name"));
    }
}

#[test]
fn failures_of_a_batch_are_its_exit_code() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (input, output) = (dir.path().join("in.jsonl"), dir.path().join("out.jsonl"));
    fs_err::write(&input, batch(4)).expect("written");
    let server = Server::start(|number, request| match request.body["messages"][0]["content"].as_str() {
        Some("say 2") => Step::json(400, &json!({ "error": { "message": "no" } })),
        _ => parrot(number, request),
    });
    let url = server.url();
    let (input, output) = (text(&input), text(&output));
    fail(&["batch", "run", &input, "-o", &output, "--url", &url], 1, &["4 of 4 requests answered, 1 failed"]);
    fs_err::write(&input, batch(1) + &batch(1)).expect("written");
    fail(&["batch", "run", &input, "-o", &output, "--url", &url], 2, &["in.jsonl:2: custom_id \"r0\""]);
    fs_err::write(&input, batch(1)).expect("written");
    fail(&["batch", "run", &input, "-o", &output, "--url", &url], 2, &["is not among the requests"]);
}
