//! Requests that nobody should send.

use std::time::Duration;

use crate::client::{Client, ask, get, post};
use crate::running::Running;
use crate::scripted::{Backend, answer};

#[tokio::test]
async fn only_backends_are_connected_to_whatever_a_request_says() {
    let victim = Backend::named("victim").await;
    let address = victim.address;
    let backend = Backend::start(move |seen| {
        if seen.head.contains("/redirect") {
            vec![answer("307 Temporary Redirect", &format!("location: http://{address}/"), "")]
        } else {
            vec![answer("200 OK", "", "backend")]
        }
    })
    .await;
    let gateway = Running::start(&[&backend], |_| {}).await;
    let host = format!("host: {address}");
    for request in [
        get("/v1/models").replace(" /v1", &format!(" http://{address}/v1")),
        get("/v1/models").replace("host: gateway", &host),
        get("/v1/models").replace(" /v1", &format!(" //{address}/v1")),
        get("/v1/models").replace(" /v1", &format!(" /@{address}/v1")),
        get("/v1/models").replace("\r\nconnection", &format!("\r\nx-forwarded-host: {address}\r\nconnection")),
    ] {
        let reply = ask(gateway.address, &request).await;
        assert_eq!((reply.status, reply.body.as_str()), (200, "backend"), "{request}");
        assert!(backend.seen().last().expect("it answered").head.contains(&format!("host: {}\r\n", backend.address)));
    }
    let reply = ask(gateway.address, &get("/redirect")).await;
    assert_eq!((reply.status, reply.header("location")), (307, Some(format!("http://{address}/").as_str())));
    assert!(victim.seen().is_empty());
}

#[tokio::test]
async fn tunnels_and_other_protocols_are_refused() {
    let backend = Backend::named("a").await;
    let gateway = Running::start(&[&backend], |_| {}).await;
    let upgrade = |to: &str| {
        get("/v1/models").replace("connection: close", &format!("connection: upgrade, close\r\nupgrade: {to}"))
    };
    for (request, status, code) in [
        (
            format!("CONNECT {} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", backend.address),
            405,
            "method_not_allowed",
        ),
        (get("/").replace("GET", "TRACE"), 405, "method_not_allowed"),
        (get("*").replace("GET", "OPTIONS"), 400, "invalid_target"),
        (upgrade("websocket"), 400, "upgrade_refused"),
        (
            get("/").replace(
                "host",
                "via: 1.1 hadal-gateway, 1.1 hadal-gateway, 1.1 hadal-gateway, 1.1 hadal-gateway\r\nhost",
            ),
            508,
            "gateway_loop",
        ),
    ] {
        let reply = ask(gateway.address, &request).await;
        assert_eq!(reply.status, status, "{request}\n{}", reply.body);
        assert!(reply.body.contains(&format!("\"code\":\"{code}\"")), "{}", reply.body);
    }
    assert!(backend.seen().is_empty());
    // An offer that may be passed over is.
    assert_eq!(ask(gateway.address, &upgrade("h2c")).await.body, "a");
    assert!(!backend.seen()[0].head.contains("upgrade"));
}

#[tokio::test]
async fn bodies_have_limits() {
    let backend = Backend::named("a").await;
    let gateway = Running::start(&[&backend], |options| {
        options.max_body_bytes = 1000;
        options.max_buffered_bytes = 1500;
        options.body_timeout = Duration::from_millis(300);
    })
    .await;
    let large = "x".repeat(1001);
    assert_eq!(ask(gateway.address, &post("/v1/completions", "", &large)).await.status, 413);
    // Without a length, the limit shows on the way.
    let chunked = "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    let reply = ask(gateway.address, &format!("{chunked}3e9\r\n{large}\r\n0\r\n\r\n")).await;
    assert_eq!(reply.status, 413, "{}", reply.body);
    let reply = ask(gateway.address, &format!("{chunked}3e8\r\n{}\r\n0\r\n\r\n", &large[..1000])).await;
    assert_eq!((reply.status, backend.seen().len()), (200, 1));
    assert_eq!(backend.seen()[0].body.len(), 1000);
    assert!(backend.seen()[0].head.contains("content-length: 1000\r\n"));
    // Larger than any number.
    let reply = ask(gateway.address, &post("/", "", "x").replace("length: 1", "length: 99999999999999999999")).await;
    assert!([400, 413].contains(&reply.status), "{}", reply.status);

    // One that does not come: it holds its room for as long as it may, and others are told to come again.
    let slow = Client::send(gateway.address, &post("/", "", &large[..1000])[..1000]).await;
    let mut refused = 0;
    let slow = tokio::spawn(slow.reply());
    while !slow.is_finished() {
        let reply = ask(gateway.address, &post("/", "", &large[..1000])).await;
        if reply.status == 503 {
            assert!(reply.body.contains("gateway_full") && reply.header("retry-after") == Some("1"), "{}", reply.body);
            refused += 1;
        }
    }
    let slow = slow.await.expect("an answer");
    assert_eq!(slow.status, 408, "{}", slow.body);
    assert!(refused > 0);
    assert_eq!(ask(gateway.address, &post("/", "", &large[..1000])).await.status, 200, "its room is free again");

    // One that breaks off.
    let before = backend.seen().len();
    drop(Client::send(gateway.address, &post("/", "", "0123456789")[..post("/", "", "0123456789").len() - 5]).await);
    assert_eq!(ask(gateway.address, &post("/", "", "")).await.status, 200);
    assert_eq!(backend.seen().len(), before + 1);
}

#[tokio::test]
async fn a_client_that_sends_too_much_hears_so() {
    let backend = Backend::named("a").await;
    let gateway = Running::start(&[&backend], |options| options.max_body_bytes = 5 << 20).await;
    // More than the buffers of a connection hold: it is still being sent when it is refused.
    let large = "x".repeat(16 << 20);
    let mut client = Client::send(gateway.address, "").await;
    assert!(client.write(&post("/v1/completions", "", &large)).await, "the connection stays open while it is sent");
    let reply = client.reply().await;
    assert_eq!(reply.status, 413);
    assert!(reply.body.contains("max_body_bytes"), "{}", reply.body);
    // One that asks first need not send it.
    let mut asks = Client::send(gateway.address, &post("/", "expect: 100-continue", &large)[..200]).await;
    asks.until("HTTP/1.1 413 ").await;
    assert!(backend.seen().is_empty());
    // And may if it is small.
    let request = post("/", "expect: 100-continue", "0123456789");
    let mut asks = Client::send(gateway.address, &request[..request.len() - 10]).await;
    asks.until("HTTP/1.1 100 ").await;
    asks.write("0123456789").await;
    asks.until("HTTP/1.1 200 ").await;
    assert_eq!(backend.seen()[0].body, "0123456789");
    assert!(!backend.seen()[0].head.contains("expect"));
}

#[tokio::test]
async fn one_request_stays_one_request() {
    let backend = Backend::named("a").await;
    let gateway = Running::start(&[&backend], |_| {}).await;
    let inner = "GET /inner HTTP/1.1\r\nhost: a\r\n\r\n";
    // Length and chunks, in both orders; two lengths; a length that is none.
    for headers in [
        format!("content-length: {}\r\ntransfer-encoding: chunked", inner.len() + 5),
        format!("transfer-encoding: chunked\r\ncontent-length: {}", inner.len() + 5),
        "transfer-encoding: xchunked".to_owned(),
        "content-length: 0\r\ncontent-length: 5".to_owned(),
        "content-length: +5".to_owned(),
        "content-length: 0x5".to_owned(),
    ] {
        let request = format!("POST /outer HTTP/1.1\r\nhost: a\r\n{headers}\r\n\r\n0\r\n\r\n{inner}");
        let mut client = Client::send(gateway.address, &request).await;
        client.until("HTTP/1.1 ").await;
    }
    // An inner request that is taken at its word is one of the client's own, after the outer one has ended.
    for seen in backend.seen() {
        assert!(!seen.body.contains("inner") || seen.head.contains("content-length: "), "{seen:?}");
        assert!(!seen.head.contains("transfer-encoding"), "{seen:?}");
    }
    // What stands in a body stays there.
    let reply = ask(gateway.address, &post("/outer", "", inner)).await;
    assert_eq!(reply.body, "a");
    assert_eq!(backend.seen().last().expect("one").body, inner);
}

#[tokio::test]
async fn nonsense_is_refused_and_service_goes_on() {
    let backend = Backend::named("a").await;
    let gateway = Running::start(&[&backend], |_| {}).await;
    for nonsense in [
        "\0\0\0\0\r\n\r\n".to_owned(),
        "GET / HTTP/9.9\r\n\r\n".to_owned(),
        "GET  HTTP/1.1\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nbad header\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nx: a\0b\r\n\r\n".to_owned(),
        format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "x".repeat(1 << 20)),
        format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(1000)),
        format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(70_000)),
    ] {
        let reply = ask(gateway.address, &nonsense).await;
        assert!(
            [400, 414, 431].contains(&reply.status),
            "{} for {}",
            reply.status,
            &nonsense[..20.min(nonsense.len())]
        );
    }
    assert!(backend.seen().is_empty());
    assert_eq!(ask(gateway.address, &get("/v1/models")).await.body, "a");
}
