//! Everything at once.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::client::{Client, ask, post};
use crate::running::{Running, soon};
use crate::scripted::{Backend, Seen, Step, answer, chunk, stream_end, stream_head};

/// Does what the body of a request says.
fn obey(seen: &Seen) -> Vec<Step> {
    match seen.body.as_str() {
        "stream" => vec![stream_head(), chunk("1"), chunk("2"), stream_end()],
        "break" => vec![Step::Reset],
        "break later" => vec![stream_head(), chunk("1"), Step::Reset],
        "busy" => vec![answer("503 Service Unavailable", "retry-after: 1", "busy")],
        "hang" => vec![Step::Hang],
        "hang later" => vec![stream_head(), chunk("1"), Step::Hang],
        _ => vec![answer("200 OK", "", "whole")],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_nothing_is_left_over() {
    let mut backends = [Backend::start(obey).await, Backend::start(obey).await, Backend::start(obey).await];
    let gateway = Running::start(&backends.each_ref(), |_| {}).await;
    let address = gateway.address;
    // So many at a time, and so many in all.
    let slots = Arc::new(Semaphore::new(60));
    let mut clients = JoinSet::new();
    let kinds = ["whole", "stream", "break", "break later", "busy", "hang", "hang later"];
    for number in 0..700 {
        let slot = slots.clone().acquire_owned().await.expect("never closed");
        let kind = kinds[number % kinds.len()];
        clients.spawn(async move {
            let _slot = slot;
            // One of the backends is killed on the way, with all that it has.
            let request = post("/v1/completions", "", kind);
            match kind {
                "hang" => {
                    let client = Client::send(address, &request).await;
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                    drop(client);
                }
                "hang later" => {
                    let mut client = Client::send(address, &request).await;
                    client.read().await;
                    drop(client);
                }
                "stream" | "break later" => {
                    // What was sent before a break may be lost with it, even the head; but no part is a whole.
                    let received = Client::send(address, &request).await.all().await;
                    let is_whole = received.ends_with("1\r\n1\r\n1\r\n2\r\n0\r\n\r\n");
                    assert!(is_whole || !received.contains("\r\n0\r\n"), "{received}");
                    return (kind, is_whole);
                }
                _ => {
                    let reply = ask(address, &request).await;
                    let expected = match kind {
                        "break" => (502, true),
                        "busy" => (503, reply.body == "busy"),
                        _ => (200, reply.body == "whole"),
                    };
                    assert_eq!((reply.status, true), expected, "{kind}: {reply:?}");
                }
            }
            (kind, true)
        });
        if number == 350 {
            backends[0].kill().await;
        }
    }
    let ends = soon("all clients are served", clients.join_all()).await;
    let cut = |kind| ends.iter().filter(|end| **end == (kind, false)).count();
    assert_eq!(cut("break later"), 100);
    assert!(cut("stream") <= 20, "{} streams were at the backend that was killed", cut("stream"));
    for backend in &backends {
        gateway.until_metric(&format!("hadal_gateway_inflight{{backend=\"{}\"}} 0", backend.url())).await;
    }
    gateway.until_metric("hadal_gateway_buffered_bytes 0").await;
    gateway.until_ready(r#""backends_up":2"#).await;
}
