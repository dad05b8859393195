//! Answers on their way.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::client::{Client, ask, get, post};
use crate::running::Running;
use crate::scripted::{Backend, Step, chunk, stream_end, stream_head};

#[tokio::test]
async fn events_arrive_while_the_backend_still_thinks() {
    let permits = Arc::new(Semaphore::new(0));
    let backend = {
        let permits = permits.clone();
        Backend::start(move |_| {
            let mut steps = vec![stream_head()];
            for event in ["data: 1\n\n", "data: 2\n\n", "data: [DONE]\n\n"] {
                steps.push(chunk(event));
                steps.push(Step::Wait(permits.clone()));
            }
            steps.push(stream_end());
            steps
        })
        .await
    };
    let gateway = Running::start(&[&backend], |_| {}).await;
    let mut client = Client::send(gateway.address, &post("/v1/chat/completions", "", r#"{"stream": true}"#)).await;
    // The next event is sent only after the one before has been read here.
    for event in ["data: 1\n\n", "data: 2\n\n", "data: [DONE]\n\n"] {
        client.until(event).await;
        permits.add_permits(1);
    }
    let reply = client.reply().await;
    assert_eq!((reply.is_whole, reply.body.as_str()), (true, "data: 1\n\ndata: 2\n\ndata: [DONE]\n\n"));
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
}

#[tokio::test]
async fn a_backend_that_dies_in_the_middle_is_seen_to_have_died() {
    let length = || Step::Send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf".to_owned());
    for (steps, end) in [
        ((|| vec![stream_head(), chunk("half")]) as fn() -> Vec<Step>, (|| Step::Close) as fn() -> Step),
        (|| vec![stream_head(), chunk("half")], || Step::Reset),
        // Something that is no chunk.
        (|| vec![stream_head(), chunk("half")], || Step::Send("zz\r\n".to_owned())),
    ] {
        check_death(move || steps().into_iter().chain([end(), Step::Close]).collect()).await;
    }
    check_death(move || vec![length(), Step::Close]).await;
}

async fn check_death(steps: impl Fn() -> Vec<Step> + Send + Sync + 'static) {
    let permits = Arc::new(Semaphore::new(0));
    let backend = {
        let permits = permits.clone();
        Backend::start(move |_| {
            let mut steps = steps();
            let begin = steps.len() - if steps.len() > 2 { 2 } else { 1 };
            steps.insert(begin, Step::Wait(permits.clone()));
            steps
        })
        .await
    };
    let gateway = Running::start(&[&backend], |_| {}).await;
    let mut client = Client::send(gateway.address, &post("/v1/chat/completions", "", "{}")).await;
    client.until("half").await;
    permits.add_permits(1);
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.is_whole, reply.body.as_str()), (200, false, "half"));
    gateway
        .until_metric(&format!("hadal_gateway_cut_answers_total{{backend=\"{}\",reason=\"backend\"}} 1", backend.url()))
        .await;
    gateway.until_metric(&format!("hadal_gateway_inflight{{backend=\"{}\"}} 0", backend.url())).await;
}

#[tokio::test]
async fn an_answer_that_stands_still_is_cut() {
    let backend = Backend::start(|_| vec![stream_head(), chunk("half"), Step::Hang]).await;
    let gateway = Running::start(&[&backend], |options| options.idle_timeout = Duration::from_millis(100)).await;
    let reply = ask(gateway.address, &post("/v1/chat/completions", "", "{}")).await;
    assert_eq!((reply.is_whole, reply.body.as_str()), (false, "half"));
    backend.until_gone().await;
    gateway
        .until_metric(&format!("hadal_gateway_cut_answers_total{{backend=\"{}\",reason=\"idle\"}} 1", backend.url()))
        .await;
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_ends_the_work() {
    let backend = Backend::start(|_| vec![stream_head(), chunk("half"), Step::Hang]).await;
    let gateway = Running::start(&[&backend], |_| {}).await;
    let mut client = Client::send(gateway.address, &post("/v1/chat/completions", "", "{}")).await;
    client.until("half").await;
    drop(client);
    backend.until_gone().await;
    gateway
        .until_metric(&format!("hadal_gateway_cut_answers_total{{backend=\"{}\",reason=\"client\"}} 1", backend.url()))
        .await;
    gateway.until_metric(&format!("hadal_gateway_inflight{{backend=\"{}\"}} 0", backend.url())).await;
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_ends_the_work() {
    let backend = Backend::start(|_| vec![Step::Hang]).await;
    let gateway = Running::start(&[&backend], |_| {}).await;
    let client = Client::send(gateway.address, &post("/v1/chat/completions", "", "{}")).await;
    backend.until_seen(1).await;
    drop(client);
    backend.until_gone().await;
    gateway.until_metric(&format!("hadal_gateway_inflight{{backend=\"{}\"}} 0", backend.url())).await;
    assert_eq!(backend.seen().len(), 1);
}

#[tokio::test]
async fn connections_are_used_again() {
    let backend = Backend::named("a").await;
    let gateway = Running::start(&[&backend], |_| {}).await;
    // Whatever the clients do with theirs.
    for _ in 0..5 {
        assert_eq!(ask(gateway.address, &post("/v1/completions", "", "{}")).await.body, "a");
    }
    let request = post("/v1/completions", "", "{}").replace("connection: close\r\n", "");
    let mut client = Client::send(gateway.address, &request).await;
    client.until("\r\n\r\na").await;
    client.write(&post("/v1/completions", "", "{}")).await;
    client.reply().await;
    assert_eq!((backend.seen().len(), backend.connections()), (7, 1));
}

#[tokio::test]
async fn an_answer_without_a_body_has_none() {
    let backend = Backend::start(|seen| match &seen.head[..4] {
        // The length of what GET would give, and nothing more.
        "HEAD" => vec![Step::Send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n".to_owned())],
        _ => vec![Step::Send("HTTP/1.1 204 No Content\r\n\r\n".to_owned())],
    })
    .await;
    let gateway = Running::start(&[&backend], |_| {}).await;
    let head = ask(gateway.address, &get("/ui/page.js").replace("GET", "HEAD")).await;
    assert_eq!((head.status, head.header("content-length"), head.body.as_str()), (200, Some("5"), ""));
    let empty = ask(gateway.address, &get("/ui/page.js")).await;
    assert_eq!((empty.status, empty.body.as_str()), (204, ""));
    gateway.until_metric(&format!("hadal_gateway_inflight{{backend=\"{}\"}} 0", backend.url())).await;
    let text = ask(gateway.address, &get("/metrics")).await.body;
    assert!(!text.contains("hadal_gateway_cut_answers_total{"), "nothing was cut: {text}");
}
