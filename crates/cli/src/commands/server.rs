//! A server, from arguments.

use std::time::Duration;

use anyhow::Result;
use client::{Api, Timeouts};

use crate::args::Access;
use crate::failure::Usage;

/// The server at `url`, with the key that `access` names.
pub(super) fn open(url: &str, access: &Access) -> Result<Api> {
    let silence = Duration::from_secs(access.timeout);
    let timeouts = Timeouts { first_byte: silence, idle: silence, ..Timeouts::default() };
    let api = Api::new(url, key(access)?.as_deref(), timeouts)?;
    if api.exposes_key() {
        eprintln!("warning: the key goes to {} without encryption; everyone on the way can read it", api.url());
    }
    Ok(api)
}

fn key(access: &Access) -> Result<Option<String>> {
    if let Some(name) = &access.api_key_env {
        let value = config::env::named(name).and_then(|value| value.into_string().ok());
        let usage = || Usage(format!("--api-key-env names {name}, which is not set, or not to text"));
        return Ok(Some(value.ok_or_else(usage)?));
    }
    let Some(path) = &access.api_key_file else { return Ok(None) };
    let text = fs_err::read_to_string(path)?;
    let key = text.trim();
    if key.is_empty() || key.contains(char::is_whitespace) {
        let message = format!("{} must hold one key and nothing else", path.display());
        return Err(Usage(message).into());
    }
    Ok(Some(key.to_owned()))
}
