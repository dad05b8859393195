use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use client::load::{self, Arrivals, Plan, Prompts, RandomTokens, Report};
use client::{Error, Timeouts};
use serde_json::{Map, json};
use testkit::server::{Request, Server, Step};

use crate::{api, error, models, nobody};

fn plan(arrivals: Arrivals, requests: u64) -> Plan {
    let prompts = RandomTokens { input_tokens: 6, shared_prefix_tokens: 2, output_tokens: 4, ids: 10..1000 };
    Plan {
        model: None,
        arrivals,
        requests: Some(requests),
        seconds: None,
        warmup: 1,
        prompts: Prompts::Random(prompts),
        extra: Map::new(),
        seed: 1,
    }
}

/// Four tokens in three chunks, with a pause before each.
fn answer(pause: Duration, request: &Request) -> Vec<Step> {
    if request.path == "/v1/models" {
        return models();
    }
    let tokens = request.body["prompt"].as_array().map_or(0, Vec::len);
    let mut steps = vec![Step::events()];
    for (text, finish) in [("a", json!(null)), ("bc", json!(null)), ("d", json!("length"))] {
        let chunk = json!({ "choices": [{ "index": 0, "text": text, "finish_reason": finish }] });
        steps.extend([Step::Pause(pause), Step::event(&chunk)]);
    }
    let usage =
        json!({ "prompt_tokens": tokens, "completion_tokens": 4, "prompt_tokens_details": { "cached_tokens": 2 } });
    steps.extend([Step::event(&json!({ "choices": [], "usage": usage })), Step::done()]);
    steps
}

fn run(server: &Server, plan: &Plan) -> Result<load::Run, Error> {
    load::run(&api(server), plan, &AtomicBool::new(false), &mut |_| {})
}

#[test]
fn the_closed_loop_keeps_its_users() {
    let (now, most) = (AtomicUsize::new(0), std::sync::Arc::new(AtomicUsize::new(0)));
    let seen = std::sync::Arc::clone(&most);
    let server = Server::start(move |_, request| {
        // How many are in here at once, for long enough to meet.
        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(30));
        now.fetch_sub(1, Ordering::SeqCst);
        answer(Duration::from_millis(5), request)
    });
    let run = run(&server, &plan(Arrivals::Closed { concurrency: 3 }, 9)).expect("a run");
    assert_eq!(seen.load(Ordering::SeqCst), 3);
    let report = Report::of(&run, Some("ttft=10,e2e=10".parse().expect("limits")));
    assert_eq!((report.completed, report.failed, report.unfinished), (9, 0, 0));
    assert_eq!((report.prompt_tokens, report.cached_tokens, report.output_tokens), (54, Some(18), 36));
    assert_eq!(report.itl.expect("gaps").count, 18);
    assert_eq!(report.goodput.expect("limits were given").good, 9);
    assert!(report.lateness.is_none());
    // A pause before the first chunk, and two after it.
    let (ttft, e2e) = (report.ttft.expect("texts").p50, report.e2e.expect("ends").p50);
    assert!(ttft >= 0.035 && e2e >= ttft + 0.010, "{ttft} {e2e}");
    assert!(report.notes.iter().any(|note| note.contains("1.33 tokens")), "{:?}", report.notes);
    // The list of models, the warm-up, nine requests; prompts share two tokens and no third.
    let requests = server.requests();
    assert_eq!(requests.len(), 11);
    let prompts: Vec<_> = requests[1..].iter().map(|request| request.body["prompt"].as_array().expect("ids")).collect();
    assert!(prompts.iter().all(|prompt| prompt.len() == 6 && prompt[..2] == prompts[0][..2]));
    assert!(prompts[1..].iter().all(|prompt| prompt[2..] != prompts[0][2..]));
}

#[test]
fn the_open_loop_counts_from_when_a_request_was_due() {
    // One at a time, 40 ms each, but due every millisecond: the last one has waited for all others.
    let server = Server::start(|_, request| answer(Duration::from_millis(13), request));
    let run = run(&server, &plan(Arrivals::Open { rate: 1000.0, concurrency: Some(1) }, 8)).expect("a run");
    let report = Report::of(&run, None);
    assert_eq!(report.completed, 8);
    let last = run.samples.iter().max_by(|a, b| a.started.total_cmp(&b.started)).expect("samples");
    assert!(last.started - last.intended > 0.2, "{last:?}");
    assert!(last.ttft().expect("text") > 0.2 && last.e2e() > 0.22, "{last:?}");
    assert!(report.lateness.expect("open loop").max > 0.2);
    assert!(report.notes.iter().any(|note| note.contains("late")), "{:?}", report.notes);
}

#[test]
fn arrivals_are_those_of_the_seed() {
    let server = Server::start(|_, request| answer(Duration::ZERO, request));
    let due = |seed| {
        let plan = Plan { seed, warmup: 0, ..plan(Arrivals::Open { rate: 200.0, concurrency: None }, 20) };
        run(&server, &plan).expect("a run").samples.iter().map(|sample| sample.intended).collect::<Vec<_>>()
    };
    let first = due(1);
    assert!(first.is_sorted() && first[0] > 0.0);
    assert_eq!(due(1), first);
    assert_ne!(due(2), first);
}

#[test]
fn failures_are_counted_by_kind() {
    let server = Server::start(|number, request| match number % 4 {
        1 if number > 1 => Step::json(503, &error("full", "overloaded")),
        2 => vec![Step::events(), Step::event(&json!({ "choices": [{ "text": "a" }] }))],
        3 => vec![Step::events(), Step::Cut],
        _ => answer(Duration::ZERO, request),
    });
    // The list of models is request 0, the warm-up 1; ten follow from 2.
    let run = run(&server, &plan(Arrivals::Closed { concurrency: 1 }, 10)).expect("a run");
    let report = Report::of(&run, Some("e2e=10".parse().expect("limits")));
    let counts: Vec<_> = report.errors.iter().map(|(kind, error)| (kind.as_str(), error.count)).collect();
    assert_eq!(counts, [("broken", 3), ("cut_off", 3), ("status_503", 2)]);
    assert!(report.errors["status_503"].example.contains("full (overloaded)"));
    assert_eq!((report.completed, report.failed), (2, 8));
    let goodput = report.goodput.expect("limits were given");
    assert_eq!((goodput.good, goodput.share), (2, 0.2));
}

#[test]
fn nothing_is_measured_of_a_server_that_refuses_the_warm_up() {
    let server = Server::start(|_, request| match request.path.as_str() {
        "/v1/models" => models(),
        _ => Step::json(400, &error("token 700 is not below 300", "invalid")),
    });
    let failure = run(&server, &plan(Arrivals::Closed { concurrency: 1 }, 5)).expect_err("refused");
    assert!(matches!(failure, Error::Status { status: 400, .. }));
    assert_eq!(server.requests().len(), 2);
    let nobody = client::Api::new(&nobody(), None, Timeouts::default()).expect("an address");
    let failure =
        load::run(&nobody, &plan(Arrivals::Closed { concurrency: 1 }, 5), &AtomicBool::new(false), &mut |_| {});
    assert!(failure.expect_err("nobody listens").is_unreachable());
}

#[test]
fn extra_fields_replace_and_remove() {
    let server = Server::start(|_, request| answer(Duration::ZERO, request));
    let extra = json!({ "cache_prompt": false, "temperature": 1, "ignore_eos": null });
    let extra = extra.as_object().expect("an object").clone();
    let with = |extra| Plan { extra, ..plan(Arrivals::Closed { concurrency: 1 }, 1) };
    run(&server, &with(extra)).expect("a run");
    let body = server.requests()[2].body.clone();
    assert_eq!((&body["cache_prompt"], &body["temperature"]), (&json!(false), &json!(1)));
    assert!(body.get("ignore_eos").is_none());
    let stream = Map::from_iter([("stream".to_owned(), json!(false))]);
    assert!(matches!(run(&server, &with(stream)), Err(Error::Plan(_))));
}

#[test]
fn a_plan_that_no_clock_can_keep_is_refused() {
    let server = Server::start(|_, request| answer(Duration::ZERO, request));
    for (rate, concurrency, word) in [
        (0.0, None, "the rate is 0,"),
        (1e-30, None, "the rate is 0.000"),
        (f64::NAN, None, "the rate is NaN,"),
        (f64::INFINITY, None, "the rate is inf,"),
        (1.0, Some(usize::MAX), "the concurrency is 18446744073709551615,"),
    ] {
        let failure = run(&server, &plan(Arrivals::Open { rate, concurrency }, 5)).expect_err("no plan");
        assert!(matches!(&failure, Error::Plan(text) if text.starts_with(word)), "{failure}");
    }
    assert!(server.requests().is_empty());
}

#[test]
fn a_run_ends_with_its_seconds_or_when_it_is_stopped() {
    let server = Server::start(|_, request| answer(Duration::from_millis(10), request));
    let short = Plan { requests: None, seconds: Some(0.3), ..plan(Arrivals::Closed { concurrency: 2 }, 1) };
    let run = run(&server, &short).expect("a run");
    assert!(run.samples.len() >= 2 && run.samples.iter().all(|sample| sample.started < 0.3), "{run:?}");
    assert!(run.seconds >= run.samples.iter().map(|sample| sample.ended).fold(0.0, f64::max));
    // Each answer of this one takes a minute.
    let server = Server::start(|number, request| match number {
        0 | 1 => answer(Duration::ZERO, request),
        _ => vec![Step::events(), Step::Pause(Duration::from_mins(1))],
    });
    let stop = AtomicBool::new(false);
    let plan = plan(Arrivals::Closed { concurrency: 2 }, 5);
    let run = load::run(&api(&server), &plan, &stop, &mut |progress| stop.store(progress.sent == 2, Ordering::Relaxed));
    let run = run.expect("a run");
    assert_eq!((run.samples.len(), run.unfinished, run.is_stopped), (0, 2, true));
}
