//! A conversation in the terminal, with a model of this machine or behind a server.

mod local;
mod remote;
mod screen;

use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Result;
use tensor::Ctx;

use super::Threads;
use crate::args::{Chat, SamplingArgs};
use crate::load::{self, Loaded};

pub(crate) fn run(threads: Threads, args: &Chat) -> Result<ExitCode> {
    if let Some(url) = &args.url {
        return talk(&mut remote::open(url, args)?, args.system.clone());
    }
    let model = args.model.as_ref().expect("without --url there is a model");
    let ctx = Ctx::new(threads.with(0))?;
    let loaded = load::everything(model, args.compute)?;
    converse(&ctx, &loaded, args.system.as_deref(), &args.sampling)
}

/// A conversation with a model of this machine.
pub(crate) fn converse(ctx: &Ctx, loaded: &Loaded, system: Option<&str>, args: &SamplingArgs) -> Result<ExitCode> {
    talk(&mut local::Conversation::new(ctx, loaded, args, system), system.map(str::to_owned))
}

/// Whoever answers.
trait Partner {
    /// The user says `text`; the answer goes to standard output.
    fn turn(&mut self, text: &str) -> Result<()>;

    /// Forgets what was said, and begins with other instructions.
    fn restart(&mut self, system: Option<&str>);

    /// What the last answer took, if there was one.
    fn stats(&self) -> Option<String>;
}

/// What a line means.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Nothing,
    Quit,
    New,
    Stats,
    /// Other instructions, or the question which there are.
    System(&'a str),
    Say(&'a str),
}

impl<'a> Line<'a> {
    fn read(line: &'a str) -> Self {
        let line = line.trim();
        let (first, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match (first, rest.trim()) {
            ("", _) => Self::Nothing,
            ("/quit", "") => Self::Quit,
            ("/new", "") => Self::New,
            ("/stats", "") => Self::Stats,
            ("/system", text) => Self::System(text),
            _ => Self::Say(line),
        }
    }
}

/// Reads the user's turns from standard input, one a line, until it ends.
fn talk(partner: &mut dyn Partner, mut system: Option<String>) -> Result<ExitCode> {
    let interactive = std::io::stdin().is_terminal();
    if interactive {
        eprintln!(
            "Type a message and Enter. /new starts over, /system TEXT does so with other instructions, /stats says what the \
             last answer took, /quit or Ctrl-D ends."
        );
    }
    let mut lines = std::io::stdin().lock().lines();
    loop {
        if interactive {
            eprint!("> ");
            std::io::stderr().flush()?;
        }
        let Some(line) = lines.next().transpose()? else { break };
        match Line::read(&line) {
            Line::Nothing => {}
            Line::Quit => break,
            Line::New => partner.restart(system.as_deref()),
            Line::Stats => eprintln!("{}", partner.stats().as_deref().unwrap_or("there was no answer yet")),
            Line::System("") => eprintln!("{}", system.as_deref().unwrap_or("there are no instructions")),
            Line::System(text) => {
                system = Some(text.to_owned());
                partner.restart(Some(text));
            }
            Line::Say(text) => partner.turn(text)?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::Line;

    #[test]
    fn commands_are_whole_words() {
        assert_eq!(Line::read("  /new \n"), Line::New);
        assert_eq!(Line::read("/system  Be brief. "), Line::System("Be brief."));
        assert_eq!(Line::read("/system"), Line::System(""));
        assert_eq!(Line::read(" \t"), Line::Nothing);
        for text in ["/newer", "/new one", "new", "/quit now", "/systems x", "/usr/bin"] {
            assert_eq!(Line::read(text), Line::Say(text));
        }
    }
}
