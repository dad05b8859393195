use std::io::{Read, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use engine::{Finish, Sequence};
use serde_json::json;
use tensor::Ctx;
use tokenizer::Role;

use crate::args::Generate;
use crate::load;
use crate::sampling::{request, stream};

pub(crate) fn run(ctx: &Ctx, args: &Generate) -> Result<ExitCode> {
    let loaded = load::everything(&args.model, args.compute)?;
    let text = if let Some(text) = &args.prompt {
        text.clone()
    } else {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("reading the prompt from standard input")?;
        text
    };
    // As published: a completion begins with BOS where the tokenizer's configuration says so.
    let mut prompt = Vec::new();
    if loaded.tokenizer_config.add_bos_token == Some(true) {
        prompt.push(loaded.tokenizer.require(Role::Bos)?);
    }
    prompt.extend(loaded.tokenizer.encode_untrusted(&text));

    let mut sequence = Sequence::start(ctx, &loaded.model, request(&loaded, &args.sampling, prompt))?;
    if args.json {
        let answer = stream(ctx, &loaded, &mut sequence, &args.sampling.stop, &mut std::io::sink())?;
        let finish = match answer.finish {
            Finish::Stop => "stop",
            Finish::Length => "length",
            Finish::Context => "context",
        };
        println!("{}", json!({ "text": answer.text, "ids": answer.tokens, "finish_reason": finish }));
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    stream(ctx, &loaded, &mut sequence, &args.sampling.stop, &mut out)?;
    out.write_all(b"\n")?;
    Ok(ExitCode::SUCCESS)
}
