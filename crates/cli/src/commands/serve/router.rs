//! `hadal serve --router`: no model, but other servers behind it.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use gateway::{Gateway, Options};
use server::Keys;

use super::{Signals, bind, hangups};
use crate::args::Serve;
use crate::failure::Usage;

/// So many bodies of the largest size may be held at a time.
pub(super) const BODIES: usize = 8;

pub(crate) async fn serve(args: &Serve, limits: listen::Limits, keys: Option<Keys>) -> Result<ExitCode> {
    let mut signals = Signals::new()?;
    let mut hangups = hangups()?;
    let gateway = Gateway::new(options(args)?).map_err(|error| Usage(error.to_string()))?;
    let (listener, address) = bind(args).await?;
    eprintln!("hadal hands requests on http://{address} to {} servers", args.router.len());
    let health = gateway.watch();
    let router = router(&gateway, args, keys);
    let shutdown = async {
        tokio::select! {
            () = signals.first() => {}
            () = async {
                while hangups.recv().await.is_some() {
                    tracing::warn!("asked to look for versions, but a gateway has none");
                }
            } => {}
        }
        gateway.drain();
        tracing::info!("asked to end; new requests are taken for {} s more", args.drain_delay);
        tokio::time::sleep(Duration::from_secs_f64(args.drain_delay)).await;
    };
    let all_ended = listen::serve(listener, router, limits, || {}, shutdown).await.context("accepting connections")?;
    health.stop().await;
    if !all_ended {
        tracing::warn!("some requests had not ended after {} s and were given up", args.drain_timeout);
    }
    Ok(ExitCode::SUCCESS)
}

fn options(args: &Serve) -> Result<Options> {
    let usual = Options::new(args.router.clone());
    let max_body_bytes = super::max_body_bytes(args)?;
    Ok(Options {
        max_body_bytes,
        max_buffered_bytes: usual.max_buffered_bytes.max(BODIES * max_body_bytes),
        body_timeout: super::wait("--body-timeout", args.body_timeout)?,
        ..usual
    })
}

fn router(gateway: &Gateway, args: &Serve, keys: Option<Keys>) -> Router {
    server::guarded(gateway.router(), keys, args.allow_host.clone())
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::{Method, Request, StatusCode};
    use clap::Parser;
    use serde_json::Value;
    use sha2::{Digest, Sha256};
    use tokio::sync::Semaphore;
    use tower::ServiceExt;

    use super::*;
    use crate::args::{Args, Command};

    fn parse(flags: &[&str]) -> Result<Box<Serve>, clap::Error> {
        let words = ["hadal", "serve", "--router", "http://127.0.0.1:1"];
        match Args::try_parse_from(words.iter().chain(flags))?.command {
            Command::Serve(args) => Ok(args),
            _ => unreachable!("the word is serve"),
        }
    }

    #[test]
    fn larger_bodies_get_more_room() {
        let of = |flags: &[&str]| options(&parse(flags).expect("flags"));
        let usual = of(&[]).expect("the usual flags are good");
        assert_eq!((usual.max_body_bytes, usual.max_buffered_bytes), (32 << 20, 256 << 20));
        let large = of(&["--max-body", "257"]).expect("a size");
        assert_eq!((large.max_body_bytes, large.max_buffered_bytes), (257 << 20, (8 * 257) << 20));
        Gateway::new(large).expect("good options");
        let most = ((Semaphore::MAX_PERMITS / BODIES) >> 20).to_string();
        Gateway::new(of(&["--max-body", &most]).expect("as large as can be counted")).expect("good options");
        for wrong in ["0", "18446744073709551615"] {
            let error = of(&["--max-body", wrong]).expect_err("no size").to_string();
            assert!(error.starts_with(&format!("--max-body is {wrong}, but must be at ")), "{error}");
        }
    }

    #[test]
    fn flags_of_a_model_are_refused_by_name() {
        for flags in [
            &["--cors-origin", "https://a.example"] as &[_],
            &["--request-timeout", "600"],
            &["--max-requests", "1024"],
            &["--served-model-name", "a"],
            &["--accept-any-model"],
            &["--mtp", "auto"],
            &["--cache", "fp8"],
            &["--poll-interval", "5"],
        ] {
            let error = parse(flags).err().unwrap_or_else(|| panic!("{flags:?} was taken")).to_string();
            assert!(error.contains("--router") && error.contains(flags[0]), "{error}");
        }
        parse(&["--max-body", "1", "--allow-host", "a", "--drain-delay", "1", "--log", "off"]).expect("what it knows");
    }

    /// Asks a gateway with a key in front of no backend at all.
    async fn ask(
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &'static str,
    ) -> (StatusCode, String, Value) {
        let [high, low] = [&Sha256::digest("secret")[..16], &Sha256::digest("secret")[16..]]
            .map(|half| u128::from_be_bytes(half.try_into().expect("half of 32 bytes")));
        let entry = format!("[[keys]]\nname = \"a\"\nscope = \"user\"\nsha256 = \"{high:032x}{low:032x}\"\n");
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs_err::write(file.path(), entry).expect("written");
        let args = parse(&[]).expect("flags");
        let gateway = Gateway::new(options(&args).expect("flags")).expect("options");
        let router = router(&gateway, &args, Some(Keys::read(file.path()).expect("keys")));
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let Ok(response) = router.oneshot(request.body(Body::from(body)).expect("a request")).await;
        let id = response.headers().get("x-request-id").expect("a name").to_str().expect("text").to_owned();
        let status = response.status();
        let body = to_bytes(response.into_body(), 1 << 20).await.expect("a body");
        (status, id, serde_json::from_slice(&body).expect("JSON"))
    }

    #[tokio::test]
    async fn who_is_refused_at_the_door_hears_it_in_his_own_words() {
        let (status, id, body) = ask(Method::POST, "/v1/chat/completions", &[("x-request-id", "mine")], "{}").await;
        assert_eq!((status, id.as_str()), (StatusCode::UNAUTHORIZED, "mine"));
        assert_eq!(body["error"]["code"], "invalid_api_key");
        let (status, id, body) = ask(Method::POST, "/v1/messages", &[("x-api-key", "wrong")], "{}").await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert_eq!((&body["type"], &body["error"]["type"]), (&"error".into(), &"authentication_error".into()));
        assert_eq!(body["request_id"], id.as_str());
    }

    #[tokio::test]
    async fn a_preflight_needs_no_key() {
        let question = [
            ("origin", "https://a.example"),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization"),
        ];
        let path = "/v1/chat/completions";
        // It comes so far that a backend is looked for.
        let (status, _, body) = ask(Method::OPTIONS, path, &question, "").await;
        assert_eq!((status, &body["error"]["code"]), (StatusCode::SERVICE_UNAVAILABLE, &"no_backend".into()));
        let keyed = ask(Method::POST, path, &[("authorization", "Bearer secret")], "{}").await;
        assert_eq!(keyed.0, StatusCode::SERVICE_UNAVAILABLE);
        for (method, headers, body) in [
            (Method::OPTIONS, &question[..1], ""),
            (Method::OPTIONS, &question[1..], ""),
            (Method::OPTIONS, &question, "a body"),
            (Method::POST, &question, ""),
        ] {
            assert_eq!(
                ask(method.clone(), path, headers, body).await.0,
                StatusCode::UNAUTHORIZED,
                "{method} {headers:?}"
            );
        }
    }
}
