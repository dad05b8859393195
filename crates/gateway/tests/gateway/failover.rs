//! When another backend is tried, and when not.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::client::{Client, ask, get, post};
use crate::running::{Running, soon};
use crate::scripted::{Backend, Seen, Step, answer, chunk, stream_end, stream_head};

/// As many requests as there are backends, without a key: each backend has its turn.
async fn bodies(gateway: &Running, number: usize) -> Vec<(u16, String)> {
    let mut all = Vec::new();
    for _ in 0..number {
        let reply = ask(gateway.address, &post("/v1/completions", "", "{}")).await;
        all.push((reply.status, reply.body));
    }
    all
}

#[tokio::test]
async fn one_that_is_busy_is_passed_over() {
    let busy = Backend::start(|_| vec![answer("503 Service Unavailable", "retry-after: 7", "busy")]).await;
    let free = Backend::named("free").await;
    let gateway = Running::start(&[&busy, &free], |_| {}).await;
    assert!(bodies(&gateway, 4).await.iter().all(|reply| *reply == (200, "free".to_owned())));
    // The one that was passed over saw the same request.
    assert!(!busy.seen().is_empty());
    assert!(busy.seen().iter().all(|seen| seen.body == "{}"));
    let line =
        format!("hadal_gateway_retries_total{{backend=\"{}\",reason=\"busy\"}} {}", busy.url(), busy.seen().len());
    gateway.until_metric(&line).await;
}

#[tokio::test]
async fn other_refusals_are_answers() {
    for status in ["503 Service Unavailable", "429 Too Many Requests", "500 Internal Server Error"] {
        let headers = if status.starts_with('5') { "" } else { "retry-after: 1" };
        let one = Backend::start(move |_| vec![answer(status, headers, "no")]).await;
        let two = Backend::start(move |_| vec![answer(status, headers, "no")]).await;
        let gateway = Running::start(&[&one, &two], |_| {}).await;
        let number: u16 = status[..3].parse().expect("a status");
        assert_eq!(bodies(&gateway, 2).await, vec![(number, "no".to_owned()); 2]);
        assert_eq!((one.seen().len(), two.seen().len()), (1, 1), "{status}");
    }
}

#[tokio::test]
async fn when_all_are_busy_the_client_hears_when_the_first_is_free() {
    let busy = |name: &'static str, after: &'static str| {
        Backend::start(move |_| vec![answer("503 Service Unavailable", &format!("retry-after: {after}"), name)])
    };
    let (one, two, three) = (busy("one", "9").await, busy("two", "4").await, busy("three", "6").await);
    let gateway = Running::start(&[&one, &two, &three], |_| {}).await;
    let reply = ask(gateway.address, &post("/v1/chat/completions", "", "{}")).await;
    // In the words of that one.
    assert_eq!((reply.status, reply.header("retry-after"), reply.body.as_str()), (503, Some("4"), "two"));
    assert_eq!((one.seen().len(), two.seen().len(), three.seen().len()), (1, 1, 1), "each is tried once");
    gateway.until_metric(&format!("hadal_gateway_inflight{{backend=\"{}\"}} 0", two.url())).await;
}

#[tokio::test]
async fn one_that_is_gone_is_passed_over_and_marked() {
    let mut gone = Backend::named("gone").await;
    let here = Backend::named("here").await;
    // No question comes in time to say that it is gone.
    let gateway = Running::start(&[&gone, &here], |options| options.health_interval = Duration::from_mins(1)).await;
    gone.kill().await;
    assert_eq!(bodies(&gateway, 4).await, vec![(200, "here".to_owned()); 4]);
    gateway.until_metric(&format!("hadal_gateway_backend_up{{backend=\"{}\"}} 0", gone.url())).await;
    gateway
        .until_metric(&format!("hadal_gateway_retries_total{{backend=\"{}\",reason=\"unreachable\"}} 1", gone.url()))
        .await;
}

#[tokio::test]
async fn a_connection_that_breaks_before_an_answer_is_no_loss() {
    for step in [|| Step::Close, || Step::Reset, || Step::Send("HTTP/1.1 200".to_owned())] {
        let breaks = Backend::start(move |_| vec![step(), Step::Close]).await;
        let good = Backend::named("good").await;
        let gateway = Running::start(&[&breaks, &good], |_| {}).await;
        assert_eq!(bodies(&gateway, 2).await, vec![(200, "good".to_owned()); 2]);
        assert_eq!(breaks.seen().len(), 2, "it is ready all the same, so it is asked each time");
        gateway
            .until_metric(&format!("hadal_gateway_retries_total{{backend=\"{}\",reason=\"broken\"}} 2", breaks.url()))
            .await;
    }
}

#[tokio::test]
async fn a_request_that_breaks_every_backend_takes_none_of_them_down() {
    let script = |seen: &Seen| {
        if seen.body == "poison" { vec![Step::Close] } else { vec![answer("200 OK", "", "good")] }
    };
    let (one, two) = (Backend::start(script).await, Backend::start(script).await);
    let gateway = Running::start(&[&one, &two], |_| {}).await;
    for _ in 0..10 {
        let reply = ask(gateway.address, &post("/v1/completions", "", "poison")).await;
        assert_eq!(reply.status, 502, "{}", reply.body);
        assert!(reply.body.contains(r#""code":"backend_failed""#));
        assert_eq!(bodies(&gateway, 1).await, [(200, "good".to_owned())]);
    }
}

#[tokio::test]
async fn a_request_that_breaks_its_backend_meets_one_more_and_no_others() {
    let poison = |seen: &Seen| {
        if seen.body == "poison" { vec![Step::Close] } else { vec![answer("200 OK", "", "good")] }
    };
    let mut backends = Vec::new();
    for _ in 0..4 {
        backends.push(Backend::start(poison).await);
    }
    let gateway = Running::start(&backends.iter().collect::<Vec<_>>(), |_| {}).await;
    for n in 1..=3 {
        let reply = ask(gateway.address, &post("/v1/completions", "", "poison")).await;
        assert_eq!(reply.status, 502, "{}", reply.body);
        assert_eq!(backends.iter().map(|backend| backend.seen().len()).sum::<usize>(), 2 * n);
    }
}

#[tokio::test]
async fn what_may_have_an_effect_is_not_sent_twice() {
    let breaks = || Backend::start(|_| vec![Step::Close]);
    let (one, two) = (breaks().await, breaks().await);
    let gateway = Running::start(&[&one, &two], |_| {}).await;
    let reply = ask(gateway.address, &get("/v1/models/a").replace("GET", "DELETE")).await;
    assert_eq!((reply.status, one.seen().len() + two.seen().len()), (502, 1));
}

#[tokio::test]
async fn a_backend_that_takes_too_long_is_not_helped_by_another() {
    let hangs = || Backend::start(|_| vec![Step::Hang]);
    let (one, two) = (hangs().await, hangs().await);
    let gateway = Running::start(&[&one, &two], |options| options.response_timeout = Duration::from_millis(100)).await;
    let reply = ask(gateway.address, &post("/v1/completions", "", "{}")).await;
    assert_eq!((reply.status, one.seen().len() + two.seen().len()), (504, 1));
    assert!(reply.body.contains("response_timeout"), "{}", reply.body);
    // It hears that nobody waits any more.
    let asked = if one.seen().is_empty() { &two } else { &one };
    asked.until_gone().await;
}

#[tokio::test]
async fn nothing_is_tried_again_once_an_answer_has_begun() {
    let breaks = || Backend::start(|_| vec![stream_head(), chunk("data: 1\n\n"), Step::Close]);
    let (one, two) = (breaks().await, breaks().await);
    let gateway = Running::start(&[&one, &two], |_| {}).await;
    let reply = ask(gateway.address, &post("/v1/completions", "", "{}")).await;
    assert_eq!((reply.status, reply.is_whole, reply.body.as_str()), (200, false, "data: 1\n\n"));
    assert_eq!(one.seen().len() + two.seen().len(), 1);
}

#[tokio::test]
async fn without_a_backend_there_is_a_refusal_and_with_the_first_one_service() {
    let late = Backend::named("late").await;
    late.set_ready(503);
    let gateway = Running::unwatched(vec![late.url()], |_| {}).await;
    gateway.until_ready(r#""backends_up":0"#).await;
    let reply = ask(gateway.address, &post("/v1/completions", "", "{}")).await;
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")));
    assert!(reply.body.contains(r#""code":"no_backend""#) && late.seen().is_empty());
    let reply = ask(gateway.address, &post("/v1/messages", "", "{}")).await;
    assert!(reply.body.contains(r#""type":"overloaded_error""#), "{}", reply.body);
    late.set_ready(200);
    gateway.until_ready(r#""backends_up":1"#).await;
    assert_eq!(bodies(&gateway, 1).await, [(200, "late".to_owned())]);
}

#[tokio::test]
async fn one_that_drains_gets_nothing_new_and_ends_what_it_has() {
    let permits = Arc::new(Semaphore::new(0));
    let draining = {
        let permits = permits.clone();
        Backend::start(move |_| {
            vec![stream_head(), chunk("one "), Step::Wait(permits.clone()), chunk("two"), stream_end()]
        })
        .await
    };
    let gateway = Running::start(&[&draining], |_| {}).await;
    let mut running = Client::send(gateway.address, &post("/v1/completions", "", "{}")).await;
    running.until("one ").await;
    draining.set_ready(503);
    gateway.until_ready(r#""backends_up":0"#).await;
    assert_eq!(bodies(&gateway, 1).await[0].0, 503);
    permits.add_permits(1);
    let reply = running.reply().await;
    assert_eq!((reply.is_whole, reply.body.as_str()), (true, "one two"));
    assert_eq!(draining.seen().len(), 1);
}

#[tokio::test]
async fn a_watch_that_is_stopped_asks_no_more() {
    let backend = Backend::named("a").await;
    let mut gateway = Running::start(&[&backend], |_| {}).await;
    let health = gateway.health.take().expect("it is watched");
    soon("the watch ends", health.stop()).await;
    let polls = backend.polls();
    assert!(polls > 0);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(backend.polls(), polls);
}
