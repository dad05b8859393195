//! The crate against servers whose every byte is scripted.

mod batch;
mod chat;
mod load;
mod streaming;

use std::time::Duration;

use client::{Api, Timeouts};
use serde_json::{Value, json};
use testkit::server::{Server, Step};

/// Long enough for a busy machine, short enough for a test that waits for it to run out.
fn timeouts() -> Timeouts {
    Timeouts { connect: Duration::from_secs(5), first_byte: Duration::from_secs(5), idle: Duration::from_secs(5) }
}

fn api(server: &Server) -> Api {
    Api::new(&server.url(), Some("secret"), timeouts()).expect("an address")
}

/// An address where nobody listens.
fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    format!("http://{}", listener.local_addr().expect("an address"))
}

/// The answer to `/v1/models`.
fn models() -> Vec<Step> {
    Step::json(200, &json!({ "object": "list", "data": [{ "id": "scripted", "object": "model" }] }))
}

/// An error as OpenAI's interface has it.
fn error(message: &str, code: &str) -> Value {
    json!({ "error": { "message": message, "type": "t", "param": null, "code": code } })
}
