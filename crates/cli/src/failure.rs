//! Exit codes: 0 done, 1 the task failed, 2 wrong usage, 3 not enough memory or disk, 4 cannot reach or
//! bind, 5 corrupt data, 130 interrupted.

use std::io::ErrorKind;
use std::process::ExitCode;

/// There is not enough memory, or disk.
pub(crate) const NO_ROOM: u8 = 3;

/// Ends like a program that was interrupted from the keyboard.
pub(crate) const INTERRUPTED: u8 = 130;

/// A mistake in what the user typed; exit code 2.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Something that cannot be reached, or an address that cannot be had; exit code 4.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unreachable(pub(crate) String);

/// Prints the error with its causes, and gives its exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    let mut said = error.to_string();
    eprintln!("error: {said}");
    for cause in error.chain().skip(1) {
        let text = cause.to_string();
        // Some messages already contain their cause's.
        if !said.contains(&text) {
            eprintln!("  because: {text}");
            said += &text;
        }
    }
    ExitCode::from(code(error))
}

fn code(error: &anyhow::Error) -> u8 {
    error.chain().find_map(code_of).unwrap_or(1)
}

fn code_of(cause: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if let Some(io) = cause.downcast_ref::<std::io::Error>() {
        return match io.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::OutOfMemory => Some(NO_ROOM),
            ErrorKind::Interrupted => Some(INTERRUPTED),
            _ => None,
        };
    }
    if cause.is::<Usage>() || cause.is::<config::RecipeError>() || cause.is::<config::presets::UnknownPreset>() {
        return Some(2);
    }
    if cause.is::<Unreachable>() {
        return Some(4);
    }
    if let Some(error) = cause.downcast_ref::<client::Error>() {
        return match error {
            client::Error::Io(error) => code_of(error),
            error if error.is_usage() => Some(2),
            error => error.is_unreachable().then_some(4),
        };
    }
    // Errors that pass another one on unchanged do not show it in the chain.
    if let Some(error) = cause.downcast_ref::<train::Error>() {
        return match error {
            train::Error::Recipe(_) | train::Error::Vocabulary { .. } | train::Error::TrainTokenizer(_) => Some(2),
            train::Error::Memory { .. } => Some(NO_ROOM),
            train::Error::StateSyntax { .. } | train::Error::State { .. } => Some(5),
            train::Error::Checkpoint(error) => code_of(error),
            train::Error::Data(error) => code_of(error),
            train::Error::Io(error) => code_of(error),
            _ => None,
        };
    }
    if let Some(error) = cause.downcast_ref::<checkpoint::Error>() {
        return match error {
            checkpoint::Error::Io(error) => code_of(error),
            error => error.is_damage().then_some(5),
        };
    }
    if let Some(error) = cause.downcast_ref::<data::Error>() {
        return match error {
            data::Error::Io(error) => code_of(error),
            error => error.is_damage().then_some(5),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_found_behind_context() {
        let full = std::io::Error::from(ErrorKind::StorageFull);
        assert_eq!(code(&anyhow::Error::new(full).context("while saving")), 3);
        let full = || std::io::Error::from(ErrorKind::StorageFull);
        assert_eq!(code(&anyhow::Error::new(train::Error::Checkpoint(checkpoint::Error::Io(full())))), 3);
        assert_eq!(code(&anyhow::Error::new(train::Error::Io(full()))), 3);
        assert_eq!(code(&anyhow::Error::new(Usage("x".into())).context("y")), 2);
        assert_eq!(code(&client::Error::Plan("no end".into()).into()), 2);
        assert_eq!(code(&client::Error::Io(full()).into()), 3);
        assert_eq!(code(&anyhow::anyhow!("something else")), 1);
    }
}
