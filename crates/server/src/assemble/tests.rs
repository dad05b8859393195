//! Answers of random tokens, control tokens at all the wrong places among them.

use engine::{Drawn, Logprobs};
use tensor::Rng;
use tokenizer::{ChatFormat, ParseError, Start, Tokenizer};

use super::{Assembler, Delta, Read, Reading};

const TOKENIZER: &[u8] = include_bytes!("../../../tokenizer/testdata/tiny/tokenizer.json");
const ANSWERS: u64 = 4000;

struct Answer {
    ids: Vec<u32>,
    format: ChatFormat,
    start: Start,
}

/// Tokens of calls as they should be, and some that are not where they should be.
fn answer(tokenizer: &Tokenizer, index: u64) -> Answer {
    let mut rng = Rng::new(5, "answer", index);
    let mut one_of = |n: usize| rng.below(n as u64) as usize;
    let special = tokenizer.special_tokens();
    let control: Vec<u32> = [
        special.tool_calls_begin,
        special.tool_call_begin,
        special.tool_sep,
        special.tool_call_end,
        special.tool_calls_end,
        special.think_begin,
        special.think_end,
        special.user,
        special.eos,
    ]
    .map(|id| id.expect("the tokenizer of the tests has all of them"))
    .to_vec();
    let texts = ["f", "function", "\n```json\n{}\n```", "{\"a\": 1}", " ", "\n", "END", "EN", "é", "日", "👩", "x y"];
    let calls = [
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{}<｜tool▁call▁end｜>",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{}\n```<｜tool▁call▁end｜>",
        "<｜tool▁call▁begin｜>g<｜tool▁sep｜>{}<｜tool▁call▁end｜>",
        "<｜tool▁calls▁end｜>",
    ];
    let mut ids = Vec::new();
    for _ in 0..one_of(14) {
        match one_of(5) {
            0 => ids.push(control[one_of(control.len())]),
            1 => ids.extend(tokenizer.encode(calls[one_of(calls.len())])),
            // Half of a character, or an id that has no token.
            2 => ids.push(one_of(tokenizer.vocab_size() + 8) as u32),
            _ => ids.extend(tokenizer.encode(texts[one_of(texts.len())])),
        }
    }
    let format = ChatFormat::ALL[one_of(ChatFormat::ALL.len())];
    let start = [Start::Answer, Start::Reasoning][one_of(2)];
    Answer { ids, format, start }
}

/// All deltas of an answer, and what was read. Each token has the log-probability of its number.
fn assemble(tokenizer: &Tokenizer, answer: &Answer, reading: Reading, stop: &[String]) -> (Vec<Delta>, Read) {
    let mut assembler = Assembler::new(tokenizer, answer.format, reading, stop);
    let mut deltas = Vec::new();
    for (i, &id) in answer.ids.iter().enumerate() {
        let logprobs = Logprobs { of_token: i as f32, top: Vec::new() };
        deltas.push(assembler.push(Drawn { id, logprobs: Some(logprobs) }));
        if assembler.has_ended() {
            break;
        }
    }
    let (rest, read) = assembler.finish();
    deltas.push(rest);
    (deltas, read)
}

fn whole(deltas: Vec<Delta>) -> Delta {
    let mut whole = Delta::default();
    for delta in deltas {
        whole.append(delta);
    }
    whole
}

fn without_special(text: &str) -> String {
    let special = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>", "<|EOT|>"];
    special.iter().fold(text.to_owned(), |text, token| text.replace(token, ""))
}

#[test]
fn what_is_said_in_pieces_is_what_was_said() {
    let tokenizer = Tokenizer::from_bytes(TOKENIZER).unwrap();
    let (mut with_calls, mut broken) = (0, 0);
    for index in 0..ANSWERS {
        let answer = answer(&tokenizer, index);
        let reading = Reading::Chat { start: answer.start, tools: true, one_call: false };
        let (deltas, read) = assemble(&tokenizer, &answer, reading, &[]);
        let whole = whole(deltas);
        match tokenizer::parse_output(&tokenizer, &answer.ids, answer.format, answer.start) {
            Ok(parsed) => {
                let found = (whole.reasoning.unwrap_or_default(), whole.content, whole.calls);
                let wanted = (parsed.reasoning.unwrap_or_default(), parsed.content, parsed.tool_calls);
                assert_eq!(found, wanted, "answer {index}");
                assert_eq!(read.calls, wanted.2.len(), "answer {index}");
                with_calls += u64::from(read.calls > 0);
            }
            Err(error) => {
                // What is no call is shown as it was written, so nothing of it is lost.
                let (shown, lost) = match &error {
                    ParseError::Malformed { text, .. } => (whole.content.clone(), text.clone()),
                    // Here the error leaves out the tokens that are never text.
                    ParseError::BetweenCalls { text, .. } => (without_special(&whole.content), text.clone()),
                    _ => (whole.content.clone(), "<｜tool▁call".to_owned()),
                };
                assert!(shown.contains(&lost), "answer {index}: {error}: {shown:?}");
                assert_eq!(read.calls, whole.calls.len(), "answer {index}");
                broken += 1;
            }
        }
        // Each token is told once, in order, whatever it turned out to be.
        let told: Vec<f32> = whole.tokens.iter().map(|token| token.logprobs.of_token).collect();
        assert_eq!(told, (0..answer.ids.len()).map(|i| i as f32).collect::<Vec<_>>(), "answer {index}");
        assert_eq!(read.reasoning_tokens, whole.tokens.iter().filter(|token| token.in_reasoning).count());
    }
    assert!(
        with_calls > ANSWERS / 50 && broken > ANSWERS / 20,
        "{with_calls} answers with calls, {broken} broken ones"
    );
}

#[test]
fn without_tools_and_in_plain_text_nothing_is_a_call() {
    let tokenizer = Tokenizer::from_bytes(TOKENIZER).unwrap();
    for index in 0..ANSWERS {
        let answer = answer(&tokenizer, index);
        let plain = whole(assemble(&tokenizer, &answer, Reading::Text, &[]).0);
        assert_eq!((plain.content, plain.calls.len()), (tokenizer.decode(&answer.ids, true), 0), "answer {index}");
        let reading = Reading::Chat { start: Start::Answer, tools: false, one_call: false };
        let chat = whole(assemble(&tokenizer, &answer, reading, &[]).0);
        assert_eq!(chat.calls, [], "answer {index}");
    }
}

#[test]
fn a_stop_string_ends_an_answer_wherever_its_pieces_are_cut() {
    let tokenizer = Tokenizer::from_bytes(TOKENIZER).unwrap();
    let stop = ["END".to_owned(), "fé".to_owned(), " \n".to_owned()];
    let mut stopped = 0;
    for index in 0..ANSWERS {
        let answer = answer(&tokenizer, index);
        for reading in [Reading::Text, Reading::Chat { start: answer.start, tools: false, one_call: false }] {
            let free = whole(assemble(&tokenizer, &answer, reading, &[]).0);
            let first = stop.iter().filter_map(|stop| free.content.find(stop.as_str())).min();
            let (deltas, read) = assemble(&tokenizer, &answer, reading, &stop);
            let held = whole(deltas);
            assert_eq!(held.content, free.content[..first.unwrap_or(free.content.len())], "answer {index}");
            assert_eq!(read.stopped_by.is_some(), first.is_some(), "answer {index}");
            stopped += u64::from(first.is_some());
        }
    }
    assert!(stopped > ANSWERS / 10, "{stopped} answers were stopped");
}

#[test]
fn no_stop_string_ends_an_answer_that_is_too_short() {
    let tokenizer = Tokenizer::from_bytes(TOKENIZER).unwrap();
    let ids = tokenizer.encode("one END two END three");
    let begin = (1..=ids.len()).find(|&n| tokenizer.decode(&ids[..n], true).contains('E')).unwrap();
    let cases = [(0, "one "), (begin, "one "), (begin + 1, "one END two "), (99, "one END two END three")];
    for (min_tokens, want) in cases {
        let mut assembler = Assembler::new(&tokenizer, ChatFormat::ALL[0], Reading::Text, &["END".to_owned()])
            .with_min_tokens(min_tokens);
        let mut said = String::new();
        for &id in &ids {
            if !assembler.has_ended() {
                said += &assembler.push(Drawn { id, logprobs: None }).content;
            }
        }
        said += &assembler.finish().0.content;
        assert_eq!(said, want, "at least {min_tokens} of {} tokens", ids.len());
    }
}

#[test]
fn whoever_wants_one_call_gets_the_first() {
    let tokenizer = Tokenizer::from_bytes(TOKENIZER).unwrap();
    for index in 0..ANSWERS {
        let answer = answer(&tokenizer, index);
        let of = |one_call| Reading::Chat { start: answer.start, tools: true, one_call };
        let all = whole(assemble(&tokenizer, &answer, of(false), &[]).0);
        let one = whole(assemble(&tokenizer, &answer, of(true), &[]).0);
        assert_eq!(one.calls, all.calls[..all.calls.len().min(1)], "answer {index}");
        assert!(all.content.starts_with(&one.content), "answer {index}");
    }
}
