//! What a gateway answers itself, and what it says to backends.

use crate::client::{ask, get, post};
use crate::running::Running;
use crate::scripted::{Backend, answer};

#[tokio::test]
async fn its_own_paths_reach_no_backend() {
    let backend = Backend::named("a").await;
    let gateway = Running::start(&[&backend], |_| {}).await;
    for path in ["/livez", "/readyz", "/health", "/startupz", "/metrics"] {
        assert_eq!(ask(gateway.address, &get(path)).await.status, 200, "{path}");
        let reply = ask(gateway.address, &post(path, "", "")).await;
        assert_eq!((reply.status, reply.header("allow")), (405, Some("get, head")), "{path}");
    }
    assert!(backend.seen().is_empty());
    assert_eq!(ask(gateway.address, &get("/v1/models")).await.body, "a");

    gateway.gateway.drain();
    let reply = ask(gateway.address, &get("/readyz")).await;
    assert_eq!(reply.status, 503);
    assert!(reply.body.contains("draining"));
    assert_eq!(ask(gateway.address, &get("/livez")).await.status, 200);
    assert_eq!(ask(gateway.address, &get("/v1/models")).await.status, 200, "what comes is answered");
}

#[tokio::test]
async fn metrics_are_the_text_that_prometheus_reads() {
    let backend = Backend::named("a").await;
    let gateway = Running::start(&[&backend], |_| {}).await;
    ask(gateway.address, &get("/v1/models")).await;
    ask(gateway.address, &get("/v1/models").replace("GET", "TRACE")).await;
    let reply = ask(gateway.address, &get("/metrics")).await;
    assert_eq!(reply.header("content-type"), Some("text/plain; version=0.0.4"));
    let url = backend.url();
    for line in [
        format!("hadal_gateway_requests_total{{backend=\"{url}\",code=\"200\"}} 1"),
        "hadal_gateway_requests_total{backend=\"\",code=\"405\"} 1".to_owned(),
        format!("hadal_gateway_backend_up{{backend=\"{url}\"}} 1"),
        format!("hadal_gateway_inflight{{backend=\"{url}\"}} 0"),
        format!("hadal_gateway_first_byte_seconds_count{{backend=\"{url}\"}} 1"),
        format!("hadal_gateway_first_byte_seconds_bucket{{backend=\"{url}\",le=\"+Inf\"}} 1"),
    ] {
        assert!(reply.body.lines().any(|found| found == line), "{line} is not in\n{}", reply.body);
    }
    for line in reply.body.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        assert!(name.starts_with("hadal_gateway_") && value.parse::<f64>().is_ok(), "{line}");
        let family = name.split(['{', ' ']).next().expect("a name");
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| family.strip_suffix(end)).unwrap_or(family);
        for kind in ["HELP", "TYPE"] {
            assert!(reply.body.contains(&format!("# {kind} {family} ")), "{family} has no {kind}");
        }
    }
}

#[tokio::test]
async fn headers_are_passed_on_but_for_those_of_one_connection() {
    let backend = Backend::start(|_| {
        let headers = "connection: x-inner\r\nx-inner: 1\r\nkeep-alive: timeout=9\r\nx-outer: 2\r\nx-request-id: other";
        vec![answer("201 Created", headers, "a")]
    })
    .await;
    let gateway = Running::start(&[&backend], |_| {}).await;
    let headers = "authorization: Bearer k\r\nx-request-id: mine-1\r\nx-forwarded-for: 6.6.6.6\r\nhost: two";
    let request = post("/v1/completions?a=%20b", headers, "{}").replace("host: gateway\r\n", "");
    let reply = ask(gateway.address, &request).await;
    assert_eq!((reply.status, reply.header("x-outer"), reply.header("x-request-id")), (201, Some("2"), Some("mine-1")));
    assert_eq!((reply.header("x-inner"), reply.header("keep-alive")), (None, None));

    let head = backend.seen()[0].head.to_ascii_lowercase();
    assert!(head.starts_with("post /v1/completions?a=%20b http/1.1\r\n"), "{head}");
    for line in
        ["authorization: bearer k", "x-request-id: mine-1", "x-forwarded-for: 127.0.0.1", "via: 1.1 hadal-gateway"]
    {
        assert!(head.lines().any(|found| found == line), "{line} is not in {head}");
    }
    assert!(head.lines().any(|line| line == format!("host: {}", backend.address)), "{head}");
    assert!(!head.contains("6.6.6.6") && !head.contains("connection: close"), "{head}");

    // A name of its own, the same on both sides.
    let reply = ask(gateway.address, &get("/v1/models")).await;
    let id = reply.header("x-request-id").expect("every answer has one").to_owned();
    assert!(backend.seen()[1].head.contains(&format!("x-request-id: {id}\r\n")));
}
