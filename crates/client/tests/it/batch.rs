use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use client::batch::{self, Backend, Outcome, Plan, Retry};
use client::{Api, Error, Reply};
use serde_json::{Value, json};
use testkit::server::{Request, Server, Step};

use crate::{api, error, nobody, timeouts};

/// A folder with a batch of `n` requests.
fn folder(n: usize) -> (tempfile::TempDir, Plan) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let line = |i: usize| {
        let body = json!({ "model": "m", "prompt": format!("p{i}") });
        json!({ "custom_id": format!("r{i}"), "method": "POST", "url": "/v1/completions", "body": body }).to_string()
    };
    let text = (0..n).map(line).collect::<Vec<_>>().join("\n");
    fs_err::write(dir.path().join("in.jsonl"), text).expect("written");
    let retry = Retry { retries: 3, first: Duration::from_millis(5), ..Retry::default() };
    let (input, output) = (dir.path().join("in.jsonl"), dir.path().join("out.jsonl"));
    (dir, Plan { input, output, concurrency: 3, retry })
}

fn run(backend: impl Backend, plan: &Plan) -> Result<Outcome, Error> {
    batch::run(backend, plan, &AtomicBool::new(false), &mut |_| {})
}

/// Answers with the prompt.
fn echo(_: usize, request: &Request) -> Vec<Step> {
    let headers = vec![("x-request-id", "id".to_owned())];
    Step::json_with(200, headers, &json!({ "choices": [{ "text": request.body["prompt"] }] }))
}

/// The lines of the answers by their names.
fn answers(path: &Path) -> std::collections::BTreeMap<String, Value> {
    let text = fs_err::read_to_string(path).expect("answers");
    assert!(text.is_empty() || text.ends_with('\n'));
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
    let named: Vec<_> = lines.map(|line| (line["custom_id"].as_str().expect("a name").to_owned(), line)).collect();
    let count = named.len();
    let map = std::collections::BTreeMap::from_iter(named);
    assert_eq!(map.len(), count, "an answer is there twice");
    map
}

#[test]
fn every_request_gets_its_line() {
    let server = Server::start(|number, request| match request.body["prompt"].as_str() {
        Some("p3") => Step::json(400, &error("no", "invalid")),
        _ => echo(number, request),
    });
    let (_dir, plan) = folder(7);
    let outcome = run(api(&server), &plan).expect("a run");
    assert_eq!((outcome.progress.succeeded, outcome.progress.failed, outcome.progress.total), (6, 1, 7));
    let answers = answers(&plan.output);
    assert_eq!(answers.len(), 7);
    assert_eq!(
        answers["r2"],
        json!({
            "id": "batch_req_3",
            "custom_id": "r2",
            "response": { "status_code": 200, "request_id": "id", "body": { "choices": [{ "text": "p2" }] } },
            "error": null,
        })
    );
    assert_eq!(answers["r3"]["response"]["status_code"], 400);
    assert_eq!(answers["r3"]["response"]["body"]["error"]["code"], "invalid");
    assert!(server.requests().iter().all(|request| request.path == "/v1/completions"));
    // Once more there is nothing to do, and what failed has failed.
    let again = run(api(&server), &plan).expect("a run");
    assert_eq!((again.progress.before, again.progress.succeeded, again.progress.failed), (7, 0, 0));
    assert_eq!((again.progress.all_failed(), again.progress.ended()), (1, 7));
    assert_eq!(server.requests().len(), 7);
}

#[test]
fn a_busy_server_is_asked_again_when_it_says() {
    let server = Server::start(|number, request| match number {
        0 => Step::json_with(429, vec![("retry-after", "1".to_owned())], &error("busy", "rate_limit_exceeded")),
        1 => Step::json(503, &error("full", "overloaded")),
        2 => vec![Step::Cut],
        _ => echo(number, request),
    });
    let (_dir, plan) = folder(1);
    let started = Instant::now();
    let outcome = run(api(&server), &plan).expect("a run");
    assert!(started.elapsed() >= Duration::from_secs(1), "{:?}", started.elapsed());
    assert_eq!((outcome.progress.succeeded, outcome.progress.failed, outcome.progress.retries), (1, 0, 3));
    assert_eq!(answers(&plan.output)["r0"]["response"]["status_code"], 200);
}

#[test]
fn while_a_server_wants_no_requests_nobody_asks() {
    let server = Server::start(|number, request| match number {
        0 => Step::json_with(503, vec![("retry-after", "1".to_owned())], &error("full", "overloaded")),
        // Those that were sent beside the first end after it.
        _ => [vec![Step::Pause(Duration::from_millis(50))], echo(number, request)].concat(),
    });
    let (_dir, plan) = folder(20);
    let started = Instant::now();
    let mut before = 0;
    let outcome = batch::run(api(&server), &plan, &AtomicBool::new(false), &mut |_| {
        if started.elapsed() < Duration::from_millis(900) {
            before = server.requests().len();
        }
    });
    let progress = outcome.expect("a run").progress;
    assert_eq!((progress.succeeded, progress.retries), (20, 1));
    assert_eq!(before, 3);
}

#[test]
fn what_fails_for_the_moment_is_asked_again() {
    let statuses = [408, 502, 504, 504, 503];
    let server = Server::start(move |number, request| match statuses.get(number) {
        Some(&status) => Step::json(status, &error("not now", "moment")),
        None => echo(number, request),
    });
    let (_dir, mut plan) = folder(1);
    plan.retry.retries = 5;
    let outcome = run(api(&server), &plan).expect("a run");
    assert_eq!((outcome.progress.succeeded, outcome.progress.retries), (1, 5));
    // What takes too long each time is not asked for as often as a busy server is.
    let server = Server::start(|_, _| Step::json(504, &error("too long", "request_timeout")));
    let (_dir, mut plan) = folder(1);
    plan.retry.retries = 5;
    let outcome = run(api(&server), &plan).expect("a run");
    assert_eq!((outcome.progress.failed, outcome.progress.retries), (1, 2));
    assert_eq!(answers(&plan.output)["r0"]["response"]["status_code"], 504);
}

#[test]
fn patience_ends() {
    let server = Server::start(|_, _| Step::json(503, &error("full", "overloaded")));
    let (_dir, plan) = folder(1);
    let outcome = run(api(&server), &plan).expect("a run");
    assert_eq!((outcome.progress.failed, outcome.progress.retries), (1, 3));
    assert_eq!(answers(&plan.output)["r0"]["response"]["status_code"], 503);
    let server = Server::start(|_, _| vec![Step::Cut]);
    let (_dir, plan) = folder(1);
    assert_eq!(run(api(&server), &plan).expect("a run").progress.failed, 1);
    let line = &answers(&plan.output)["r0"];
    assert_eq!((&line["response"], &line["error"]["code"]), (&Value::Null, &json!("closed")));
}

#[test]
fn what_is_wrong_for_all_ends_the_run() {
    let (_dir, plan) = folder(5);
    let nobody = Api::new(&nobody(), None, timeouts()).expect("an address");
    assert!(run(nobody, &plan).expect_err("nobody listens").is_unreachable());
    let server = Server::start(|_, _| Step::json(401, &error("who?", "invalid_api_key")));
    let failure = run(api(&server), &plan).expect_err("no key");
    assert!(failure.to_string().contains("who?"), "{failure}");
    assert!(answers(&plan.output).is_empty());
    assert!(server.requests().len() <= 3);
}

#[test]
fn a_run_that_is_over_waits_for_no_turn() {
    let server = Server::start(|number, request| match request.body["prompt"].as_str() {
        Some("p0") => Step::json_with(503, vec![("retry-after", "60".to_owned())], &error("full", "overloaded")),
        // Others come into its place while nobody may ask.
        Some("p1") => [vec![Step::Pause(Duration::from_millis(100))], echo(number, request)].concat(),
        _ => {
            let refusal = Step::json(401, &error("who?", "invalid_api_key"));
            [vec![Step::Pause(Duration::from_millis(500))], refusal].concat()
        }
    });
    let (_dir, plan) = folder(10);
    let started = Instant::now();
    let failure = run(api(&server), &plan).expect_err("no key");
    assert!(failure.to_string().contains("who?"), "{failure}");
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    assert_eq!((answers(&plan.output).len(), server.requests().len()), (1, 3));
}

#[test]
fn a_run_that_was_stopped_goes_on() {
    let server = Server::start(|number, request| {
        std::thread::sleep(Duration::from_millis(20));
        echo(number, request)
    });
    let (_dir, plan) = folder(40);
    let stop = AtomicBool::new(false);
    let outcome = batch::run(api(&server), &plan, &stop, &mut |progress| {
        stop.store(progress.succeeded > 0, Ordering::Relaxed);
    });
    let outcome = outcome.expect("a run");
    assert!(outcome.is_interrupted && (1..40).contains(&outcome.progress.succeeded), "{outcome:?}");
    let left = answers(&plan.output).len() as u64;
    assert_eq!(left, outcome.progress.succeeded);
    // As if the machine had stopped in the middle of the last line.
    let file = fs_err::OpenOptions::new().write(true).open(&plan.output).expect("answers");
    let length = file.metadata().expect("a length").len();
    file.set_len(length - 5).expect("cut");
    let asked = server.requests().len();
    let outcome = run(api(&server), &plan).expect("a run");
    assert!(outcome.progress.was_torn && !outcome.is_interrupted);
    assert_eq!((outcome.progress.before, outcome.progress.succeeded), (left - 1, 41 - left));
    assert_eq!(answers(&plan.output).len(), 40);
    assert_eq!(server.requests().len() - asked, 41 - left as usize);
}

#[test]
fn a_wrong_file_is_refused_before_the_first_request() {
    let server = Server::start(echo);
    let (dir, plan) = folder(3);
    let twice = fs_err::read_to_string(&plan.input).expect("requests").replace("r2", "r0");
    let input: PathBuf = dir.path().join("twice.jsonl");
    fs_err::write(&input, twice).expect("written");
    let failure = run(api(&server), &Plan { input, ..plan.clone() }).expect_err("a name is there twice");
    assert!(failure.to_string().contains("twice.jsonl:3: custom_id \"r0\" is that of line 1 too"), "{failure}");
    // The requests themselves are no answers.
    let output = plan.input.clone();
    assert!(matches!(run(api(&server), &Plan { output, ..plan }), Err(Error::Output { line: 1, .. })));
    assert!(server.requests().is_empty());
}

/// Something that answers in this process.
struct Here;

impl Backend for Here {
    async fn call(&self, path: &str, body: &Value) -> Result<Reply, Error> {
        Ok(Reply { status: 200, body: json!({ "path": path, "asked": body }), retry_after: None, request_id: None })
    }
}

#[test]
fn a_backend_need_not_be_a_server() {
    let (_dir, plan) = folder(2);
    assert_eq!(run(Here, &plan).expect("a run").progress.succeeded, 2);
    assert_eq!(answers(&plan.output)["r1"]["response"]["body"]["asked"]["prompt"], "p1");
}
