//! Model output taken apart.

use serde_json::json;
use tokenizer::{
    ChatFormat, ChatOptions, ChatTemplate, Message, ParseError, ParsedOutput, Start, Tokenizer, ToolCall, parse_output,
};

use crate::common;

fn parse(text: &str, format: ChatFormat, start: Start) -> Result<ParsedOutput, ParseError> {
    let tokenizer = common::tiny();
    let ids = tokenizer.encode(text);
    parse_output(&tokenizer, &ids, format, start)
}

fn output(reasoning: Option<&str>, content: &str, calls: &[(&str, &str)]) -> ParsedOutput {
    ParsedOutput {
        reasoning: reasoning.map(str::to_owned),
        content: content.to_owned(),
        tool_calls: calls
            .iter()
            .map(|&(name, arguments)| ToolCall { name: name.to_owned(), arguments: arguments.to_owned() })
            .collect(),
    }
}

const EOS: &str = "<｜end▁of▁sentence｜>";
const FENCED: &str = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"x\": 1}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>g\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
const PLAIN: &str = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"x\": 1}<｜tool▁call▁end｜><｜tool▁call▁begin｜>g<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
const CALLS: [(&str, &str); 2] = [("f", "{\"x\": 1}"), ("g", "{}")];

#[test]
fn reasoning_and_answer() {
    let check = |text: &str, start, expected: ParsedOutput| {
        assert_eq!(parse(text, ChatFormat::R1, start).expect("there is no tool call"), expected, "{text:?}");
    };
    check("hi", Start::Answer, output(None, "hi", &[]));
    check("", Start::Answer, output(None, "", &[]));
    check("r</think>a", Start::Reasoning, output(Some("r"), "a", &[]));
    check("<think>r</think>a", Start::Reasoning, output(Some("r"), "a", &[]));
    check("<think>\nr\n</think>\n\na", Start::Answer, output(Some("\nr\n"), "\n\na", &[]));
    check("r</think>a</think>b", Start::Reasoning, output(Some("r"), "a</think>b", &[]));
    check("cut short", Start::Reasoning, output(Some("cut short"), "", &[]));
    check("a</think>b", Start::Answer, output(None, "a</think>b", &[]));
    check(&format!("r</think>a{EOS}beyond"), Start::Reasoning, output(Some("r"), "a", &[]));
}

#[test]
fn tool_calls_of_both_forms() {
    let check = |text: &str, format, start, expected| {
        assert_eq!(parse(text, format, start).expect("the calls are well formed"), expected, "{text:?}");
    };
    for format in [ChatFormat::V3, ChatFormat::V3March, ChatFormat::R1] {
        check(FENCED, format, Start::Answer, output(None, "", &CALLS));
    }
    check(PLAIN, ChatFormat::V31, Start::Answer, output(None, "", &CALLS));
    check(
        &format!("r</think>Let me see.{FENCED}{EOS}"),
        ChatFormat::R1,
        Start::Reasoning,
        output(Some("r"), "Let me see.", &CALLS),
    );
    // The end of the output in place of the closing token.
    let open = PLAIN.replace("<｜tool▁calls▁end｜>", "");
    check(&open, ChatFormat::V31, Start::Answer, output(None, "", &CALLS));
    // A call within the reasoning is reasoning.
    check(&format!("{PLAIN}</think>a"), ChatFormat::V31, Start::Reasoning, {
        let tokenizer = common::tiny();
        output(Some(&tokenizer.decode(&tokenizer.encode(PLAIN), true)), "a", &[])
    });
}

/// Text that spells a call is text; only ids count.
#[test]
fn spelled_calls_are_text() {
    let tokenizer = common::tiny();
    let text = format!("<think>r</think>{PLAIN}");
    let parsed = parse_output(&tokenizer, &tokenizer.encode_untrusted(&text), ChatFormat::V31, Start::Answer);
    assert_eq!(parsed.expect("there is no call"), output(None, &text, &[]));
}

#[test]
fn what_a_template_stores_is_parsed_back() {
    let tokenizer = common::tiny();
    for format in ChatFormat::ALL {
        let call = |(name, arguments): (&str, &str)| json!({"type": "function", "function": {"name": name, "arguments": arguments}});
        let asked = Message { tool_calls: CALLS.map(call).to_vec(), ..Message::new("assistant", "c") };
        let (user, options) = (Message::new("user", "u"), ChatOptions::default());
        let template = ChatTemplate::builtin(format);
        let encode = |messages: &[Message], prompt| {
            let options = ChatOptions { add_generation_prompt: prompt, ..options.clone() };
            template.encode(&tokenizer, messages, &options).expect("the template can be followed")
        };
        // R1's prompt opens a reasoning that its stored turns do not have.
        let prompt = encode(std::slice::from_ref(&user), format != ChatFormat::R1);
        let stored = encode(&[user, asked], false);
        let skip = prompt.len() + usize::from(format == ChatFormat::R1);
        let parsed = parse_output(&tokenizer, &stored[skip..], format, Start::Answer);
        assert_eq!(parsed.expect("the calls are well formed"), output(None, "c", &CALLS), "{format:?}");
    }
}

#[test]
fn damaged_calls() {
    let error = |text: &str, format| parse(text, format, Start::Answer).expect_err("the call is damaged");
    let unfinished = error("<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{", ChatFormat::V31);
    assert!(matches!(unfinished, ParseError::Unfinished { index: 0 }), "{unfinished}");
    let between = error(&PLAIN.replacen("<｜tool▁call▁end｜>", "<｜tool▁call▁end｜>and", 1), ChatFormat::V31);
    assert!(matches!(between, ParseError::BetweenCalls { index: 1, .. }), "{between}");
    let no_sep = error(&PLAIN.replace("<｜tool▁sep｜>", ""), ChatFormat::V31);
    assert!(matches!(no_sep, ParseError::Malformed { index: 0, .. }), "{no_sep}");
    let no_fence = error(PLAIN, ChatFormat::R1);
    assert!(matches!(no_fence, ParseError::Malformed { .. }), "{no_fence}");
    let no_name = error(&PLAIN.replace(">f<", "><"), ChatFormat::V31);
    assert!(matches!(no_name, ParseError::Malformed { index: 0, .. }), "{no_name}");
}

/// Wherever an output is cut, parsing ends in what was complete or in an error.
#[test]
fn every_truncation() {
    let tokenizer: Tokenizer = common::tiny();
    let ids = tokenizer.encode(&format!("r</think>c{FENCED}{EOS}"));
    let mut whole = 0;
    for length in 0..=ids.len() {
        match parse_output(&tokenizer, &ids[..length], ChatFormat::R1, Start::Reasoning) {
            Ok(parsed) => whole += usize::from(parsed.tool_calls.len() == 2),
            Err(error) => assert!(matches!(error, ParseError::Unfinished { .. }), "{error}"),
        }
    }
    // With the second call's end, with the end of calls, and with EOS.
    assert_eq!(whole, 3);
}
