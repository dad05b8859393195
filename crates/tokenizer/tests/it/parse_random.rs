//! Random outputs, control tokens at all the wrong places among them, against a second reading that works on text.

use tensor::Rng;
use tokenizer::{ChatFormat, ParsedOutput, Start, Tokenizer, ToolCall, parse_output};

use crate::common;

const OUTPUTS: u64 = 6000;
const BEGIN: &str = "<｜tool▁call▁begin｜>";
const END: &str = "<｜tool▁call▁end｜>";
const SEP: &str = "<｜tool▁sep｜>";

/// Pieces of outputs: most of them whole, so that some outputs are as they should be.
fn output(tokenizer: &Tokenizer, index: u64) -> Vec<u32> {
    let fenced = format!("{BEGIN}function{SEP}f\n```json\n{{}}\n```{END}");
    let plain = format!("{BEGIN}f{SEP}{{\"a\": \"é\"}}{END}");
    let opened = [format!("<｜tool▁calls▁begin｜>{fenced}"), format!("<｜tool▁calls▁begin｜>{plain}")];
    let pieces = [
        &opened[0],
        &opened[1],
        "text",
        "é日",
        " \n",
        "<think>",
        "</think>",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁calls▁end｜>",
        &fenced,
        &fenced,
        &plain,
        &plain,
        BEGIN,
        SEP,
        END,
        "<｜end▁of▁sentence｜>",
        "<｜User｜>",
    ];
    let mut rng = Rng::new(9, "output", index);
    let mut ids = Vec::new();
    for _ in 0..rng.below(9) {
        if rng.below(8) == 0 {
            // Half of a character, or an id that has no token.
            ids.push(rng.below(tokenizer.vocab_size() as u64 + 8) as u32);
        } else {
            ids.extend(tokenizer.encode(pieces[rng.below(pieces.len() as u64) as usize]));
        }
    }
    ids
}

/// What an output says, if its calls are written as they should be.
fn read(tokenizer: &Tokenizer, ids: &[u32], format: ChatFormat, start: Start) -> Option<ParsedOutput> {
    let special = tokenizer.special_tokens();
    let cut = |ids: &[u32], id: Option<u32>| {
        let at = ids.iter().position(|&other| Some(other) == id)?;
        Some((ids[..at].to_vec(), ids[at + 1..].to_vec()))
    };
    let text = |ids: &[u32]| tokenizer.decode(ids, true);

    let mut rest = cut(ids, special.eos).map_or_else(|| ids.to_vec(), |(before, _)| before);
    let is_opened = rest.first().is_some_and(|&id| Some(id) == special.think_begin);
    let mut output = ParsedOutput::default();
    if is_opened || start == Start::Reasoning {
        let inside = rest.split_off(usize::from(is_opened));
        let (reasoning, answer) = cut(&inside, special.think_end).unwrap_or((inside, Vec::new()));
        output.reasoning = Some(text(&reasoning));
        rest = answer;
    }
    let Some((before, after)) = cut(&rest, special.tool_calls_begin) else {
        output.content = text(&rest);
        return Some(output);
    };
    let (calls, behind) = cut(&after, special.tool_calls_end).unwrap_or((after, Vec::new()));
    output.content = text(&before) + &text(&behind);
    let calls = text(&calls);
    let mut calls = calls.trim();
    while !calls.is_empty() {
        let (call, others) = calls.strip_prefix(BEGIN)?.split_once(END)?;
        output.tool_calls.push(read_call(call, format)?);
        calls = others.trim();
    }
    Some(output)
}

fn read_call(call: &str, format: ChatFormat) -> Option<ToolCall> {
    let (before, after) = call.split_once(SEP)?;
    let (name, arguments) = if format == ChatFormat::V31 {
        (before, after)
    } else {
        let (name, fenced) = after.split_once('\n')?;
        (name, fenced.trim().strip_prefix("```json")?.strip_suffix("```")?.trim_matches('\n'))
    };
    let name = name.trim();
    (!name.is_empty()).then(|| ToolCall { name: name.to_owned(), arguments: arguments.to_owned() })
}

#[test]
fn two_readings_agree() {
    let tokenizer = common::tiny();
    let (mut with_calls, mut refused) = (0, 0);
    for index in 0..OUTPUTS {
        let ids = output(&tokenizer, index);
        for format in ChatFormat::ALL {
            for start in [Start::Answer, Start::Reasoning] {
                let found = parse_output(&tokenizer, &ids, format, start);
                let wanted = read(&tokenizer, &ids, format, start);
                with_calls += u64::from(wanted.as_ref().is_some_and(|output| !output.tool_calls.is_empty()));
                refused += u64::from(wanted.is_none());
                assert_eq!(found.ok(), wanted, "{format:?} {start:?} {:?}", tokenizer.decode(&ids, false));
            }
        }
    }
    assert!(with_calls > OUTPUTS / 10 && refused > OUTPUTS / 10, "{with_calls} with calls, {refused} refused");
}
