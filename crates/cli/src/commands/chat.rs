use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Result;
use engine::Sequence;
use tensor::Ctx;
use tokenizer::{ChatOptions, Message};

use crate::args::{Chat, SamplingArgs};
use crate::load::{self, Loaded};
use crate::sampling::{request, stream};

pub(crate) fn run(ctx: &Ctx, args: &Chat) -> Result<ExitCode> {
    let loaded = load::everything(&args.model, args.compute)?;
    converse(ctx, &loaded, args.system.as_deref(), &args.sampling)
}

/// Reads the user's turns from standard input, one a line, until it ends.
pub(crate) fn converse(ctx: &Ctx, loaded: &Loaded, system: Option<&str>, args: &SamplingArgs) -> Result<ExitCode> {
    let interactive = std::io::stdin().is_terminal();
    if interactive {
        eprintln!("Type a message and Enter. /new starts over, /quit or Ctrl-D ends.");
    }
    let mut conversation = Conversation::new(system);
    let mut lines = std::io::stdin().lock().lines();
    loop {
        if interactive {
            eprint!("> ");
            std::io::stderr().flush()?;
        }
        let Some(line) = lines.next().transpose()? else { break };
        match line.trim() {
            "" => {}
            "/quit" => break,
            "/new" => conversation = Conversation::new(system),
            text => conversation.turn(ctx, loaded, text, args)?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The messages so far, and the sequence that has seen a part of them.
struct Conversation {
    messages: Vec<Message>,
    sequence: Option<Sequence>,
    /// The tokens in the sequence's cache.
    seen: Vec<u32>,
}

impl Conversation {
    fn new(system: Option<&str>) -> Self {
        Self {
            messages: system.map(|text| Message::new("system", text)).into_iter().collect(),
            sequence: None,
            seen: Vec::new(),
        }
    }

    /// The user says `text`; the answer goes to standard output.
    fn turn(&mut self, ctx: &Ctx, loaded: &Loaded, text: &str, args: &SamplingArgs) -> Result<()> {
        self.messages.push(Message::new("user", text));
        let options = ChatOptions { add_generation_prompt: true, ..ChatOptions::default() };
        let ids = loaded.template.encode(&loaded.tokenizer, &self.messages, &options)?;
        // The cache goes on where the template prints what it has seen, token for token, and more; some templates
        // change earlier turns, and text may split into other tokens than the model chose.
        let mut sequence = match (self.sequence.take(), ids.strip_prefix(self.seen.as_slice())) {
            (Some(mut sequence), Some(rest)) if !rest.is_empty() => {
                sequence.resume(ctx, &loaded.model, rest)?;
                sequence
            }
            _ => Sequence::start(ctx, &loaded.model, request(loaded, args, ids.clone()))?,
        };
        let mut out = std::io::stdout().lock();
        let answer = stream(ctx, loaded, &mut sequence, &args.stop, &mut out)?;
        out.write_all(b"\n")?;
        self.seen = ids;
        self.seen.extend(&answer.tokens);
        // A token that ended the answer by a stop string was drawn and never entered the cache.
        self.seen.truncate(sequence.len());
        self.messages.push(Message::new("assistant", answer.text));
        self.sequence = Some(sequence);
        Ok(())
    }
}
