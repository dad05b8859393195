//! Who gets a request.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::client::{Client, ask, get, post};
use crate::running::Running;
use crate::scripted::{Backend, Step, answer, chunk, stream_end, stream_head};

/// A backend whose answers begin when they get a permit.
async fn held(permits: &Arc<Semaphore>) -> Backend {
    let permits = permits.clone();
    Backend::start(move |_| vec![Step::Wait(permits.clone()), answer("200 OK", "", "held")]).await
}

#[tokio::test]
async fn those_who_are_busy_get_no_more_until_they_are_done() {
    let permits = Arc::new(Semaphore::new(0));
    let slow = held(&permits).await;
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    let gateway = Running::start(&[&slow, &a, &b], |_| {}).await;
    // One of the first three goes to the slow one and stays there.
    let mut first = Vec::new();
    for _ in 0..3 {
        first.push(Client::send(gateway.address, &get("/v1/models")).await);
    }
    slow.until_seen(1).await;
    a.until_seen(1).await;
    b.until_seen(1).await;
    for _ in 0..20 {
        assert_eq!(ask(gateway.address, &get("/v1/models")).await.status, 200);
    }
    assert_eq!((slow.seen().len(), a.seen().len(), b.seen().len()), (1, 11, 11));
    permits.add_permits(100);
    for client in first {
        assert_eq!(client.reply().await.status, 200);
    }
    for _ in 0..9 {
        ask(gateway.address, &get("/v1/models")).await;
    }
    assert_eq!(slow.seen().len(), 4, "every third again");
}

#[tokio::test]
async fn a_request_counts_until_its_answer_has_ended_and_not_only_begun() {
    let permits = Arc::new(Semaphore::new(0));
    let streaming = {
        let permits = permits.clone();
        let script = move |_: &_| vec![stream_head(), chunk("begun"), Step::Wait(permits.clone()), stream_end()];
        Backend::start(script).await
    };
    let other = Backend::named("other").await;
    let gateway = Running::start(&[&streaming, &other], |_| {}).await;
    let mut clients = Vec::new();
    for _ in 0..2 {
        clients.push(Client::send(gateway.address, &get("/v1/models")).await);
    }
    streaming.until_seen(1).await;
    other.until_seen(1).await;
    gateway.until_metric(&format!("hadal_gateway_inflight{{backend=\"{}\"}} 1", streaming.url())).await;
    for _ in 0..5 {
        assert_eq!(ask(gateway.address, &get("/v1/models")).await.body, "other");
    }
    permits.add_permits(10);
    for client in clients {
        assert!(client.reply().await.is_whole);
    }
    gateway.until_metric(&format!("hadal_gateway_inflight{{backend=\"{}\"}} 0", streaming.url())).await;
    ask(gateway.address, &get("/v1/models")).await;
    ask(gateway.address, &get("/v1/models")).await;
    assert_eq!(streaming.seen().len(), 2);
}

#[tokio::test]
async fn requests_that_come_together_are_spread_evenly() {
    let permits = Arc::new(Semaphore::new(0));
    let backends = [held(&permits).await, held(&permits).await, held(&permits).await];
    let gateway = Running::start(&backends.each_ref(), |_| {}).await;
    let mut clients = JoinSet::new();
    for _ in 0..90 {
        let address = gateway.address;
        clients.spawn(async move { ask(address, &post("/v1/embeddings", "", "{}")).await.status });
    }
    for backend in &backends {
        backend.until_seen(30).await;
    }
    assert_eq!(backends.each_ref().map(|backend| backend.seen().len()), [30; 3]);
    permits.add_permits(90);
    assert!(clients.join_all().await.iter().all(|status| *status == 200));
}

/// A turn of the conversation that begins with this text.
fn turn(text: &str, number: usize) -> String {
    let later = r#", {"role": "assistant", "content": "yes"}, {"role": "user", "content": "and?"}"#.repeat(number);
    let body = format!(r#"{{"messages": [{{"role": "user", "content": "{text}"}}{later}], "stream": false}}"#);
    post("/v1/chat/completions", "authorization: Bearer k", &body)
}

#[tokio::test]
async fn a_conversation_stays_where_it_began() {
    let backends = [Backend::named("a").await, Backend::named("b").await, Backend::named("c").await];
    let gateway = Running::start(&backends.each_ref(), |_| {}).await;
    for conversation in 0..30 {
        let text = format!("conversation {conversation}");
        let home = ask(gateway.address, &turn(&text, 0)).await.body;
        for number in 1..4 {
            assert_eq!(ask(gateway.address, &turn(&text, number)).await.body, home);
        }
    }
    let counts = backends.each_ref().map(|backend| backend.seen().len());
    assert_eq!(counts.iter().sum::<usize>(), 120);
    // All thirty on two of three backends would be an accident of one in 60,000.
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
}

#[tokio::test]
async fn a_conversation_leaves_a_home_that_has_too_much_to_do() {
    let permits = Arc::new(Semaphore::new(0));
    let backends = [held(&permits).await, held(&permits).await, held(&permits).await];
    let gateway = Running::start(&backends.each_ref(), |_| {}).await;
    let mut clients = JoinSet::new();
    for number in 0..30 {
        let address = gateway.address;
        let request = turn("all of them begin alike", number);
        clients.spawn(async move { ask(address, &request).await.status });
    }
    for backend in &backends {
        backend.until_seen(8).await;
    }
    permits.add_permits(30);
    assert!(clients.join_all().await.iter().all(|status| *status == 200));
    let counts = backends.each_ref().map(|backend| backend.seen().len());
    assert!(counts.iter().all(|count| *count <= 14), "1.25 * 10 + 1, and the one that is added: {counts:?}");
}
