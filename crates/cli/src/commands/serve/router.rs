//! `hadal serve --router`: no model, but other servers behind it.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use gateway::{Gateway, Options};
use server::Keys;

use super::{Signals, bind, hangups};
use crate::args::Serve;

pub(crate) async fn serve(args: &Serve, limits: listen::Limits, keys: Option<Keys>) -> Result<ExitCode> {
    let mut signals = Signals::new()?;
    let mut hangups = hangups()?;
    let gateway = Gateway::new(Options {
        max_body_bytes: args.max_body.saturating_mul(1 << 20),
        body_timeout: super::wait("--body-timeout", args.body_timeout)?,
        ..Options::new(args.router.clone())
    })?;
    let (listener, address) = bind(args).await?;
    eprintln!("hadal hands requests on http://{address} to {} servers", args.router.len());
    let health = gateway.watch();
    let router = server::guarded(gateway.router(), keys, args.allow_host.clone());
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
