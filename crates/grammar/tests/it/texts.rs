//! Grammars of text.

use engine::{Finish, Mtp, Request};
use grammar::{Error, Grammar};
use serde_json::{Value, json};

use crate::common::{TOKENIZER, answers, compile, constraints, request, texts};
use crate::valid::accepts;

pub(crate) fn schemas() -> Vec<Value> {
    let person = json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "maxLength": 6 },
            "age": { "type": "integer", "minimum": 0, "maximum": 120 },
            "tags": { "type": "array", "items": { "enum": ["a", "bb \"q\"", 3, null, [1, {}]] }, "minItems": 1, "maxItems": 3 },
            "ok": { "type": "boolean" },
        },
        "required": ["name", "age", "tags"],
        "additionalProperties": false,
    });
    let list = json!({
        "$defs": { "node": {
            "type": "object",
            "properties": {
                "value": { "type": "integer", "minimum": -5, "maximum": 5 },
                "next": { "anyOf": [{ "type": "null" }, { "$ref": "#/$defs/node" }] },
            },
            "required": ["value", "next"],
            "additionalProperties": false,
        } },
        "$ref": "#/$defs/node",
    });
    let number = json!({ "type": "number", "exclusiveMinimum": 0, "maximum": 10 });
    vec![
        person,
        list,
        json!({ "type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$" }),
        json!({ "type": "string", "minLength": 2, "maxLength": 4 }),
        json!({ "type": ["null", "boolean", "integer"], "minimum": 7, "maximum": 9 }),
        json!({ "type": "array", "items": { "type": "array", "items": number, "maxItems": 2 }, "minItems": 2, "maxItems": 3 }),
        json!({ "anyOf": [{ "const": { "a": [1, "x"] } }, { "type": "object", "required": ["z"], "properties": { "z": { "const": 1 } }, "additionalProperties": false }] }),
        json!({ "type": "object", "additionalProperties": { "type": "boolean" } }),
        json!({ "allOf": [{ "type": "string", "maxLength": 5 }, { "pattern": "^a+b?$" }] }),
    ]
}

/// Reads JSON. Numbers of free exponents may be beyond what numbers can be, which is no fault of the text.
fn parse(text: &str) -> Option<Value> {
    match serde_json::from_str(text) {
        Ok(value) => Some(value),
        Err(error) if error.to_string().starts_with("number out of range") => None,
        Err(error) => panic!("{text:?}: {error}"),
    }
}

#[test]
fn answers_are_json_that_the_schema_accepts() {
    for schema in schemas() {
        let (texts, unfinished) = texts(&Grammar::JsonSchema(schema.clone()), 12, 250);
        assert!(unfinished <= 3, "{schema}: {unfinished} answers did not end");
        for text in texts {
            let value = parse(&text).expect("numbers of these schemas are in bounds");
            assert!(accepts(&schema, &schema, &value), "{schema}: {text}");
        }
    }
}

#[test]
fn a_json_object_is_one() {
    let (texts, unfinished) = texts(&Grammar::JsonObject, 24, 300);
    assert!(unfinished < 16, "{unfinished} answers did not end");
    assert!(texts.iter().filter_map(|text| parse(text)).all(|value| value.is_object()));
    assert!(texts.iter().any(|text| text.len() > 20), "{texts:?}");
}

#[test]
fn all_of_an_answer_matches_a_regular_expression() {
    for regex in
        ["[a-c]{3,8}", "(yes|no), I am (very )?sure[.!]", r"\d{4}-\d{2}-\d{2}", "é+|日本|\u{1f600}x", "a/b\"c\\\\"]
    {
        let (texts, unfinished) = texts(&Grammar::Regex(regex.to_owned()), 16, 100);
        assert!(unfinished == 0, "{regex}");
        let whole = regex::Regex::new(&format!("^(?:{regex})$")).unwrap();
        for text in texts {
            assert!(whole.is_match(&text), "{regex}: {text:?}");
        }
    }
}

#[test]
fn an_answer_is_one_of_the_choices() {
    let choices = ["yes", "yes!", "no", "a \"quoted\" \\ one\n", "日本", "\u{7f}</think>"].map(str::to_owned);
    let (texts, unfinished) = texts(&Grammar::Choice(choices.to_vec()), 64, 50);
    assert_eq!(unfinished, 0);
    assert!(texts.iter().all(|text| choices.contains(text)), "{texts:?}");
    assert!(choices.iter().all(|choice| texts.contains(choice)), "{texts:?}");
}

#[test]
fn an_answer_follows_a_context_free_grammar() {
    let lark = "start: sum\nsum: product (\"+\" product)*\nproduct: atom (\"*\" atom)?\natom: DIGIT | \"(\" sum \")\"\nDIGIT: /[0-9]/";
    let (texts, unfinished) = texts(&Grammar::Lark(lark.to_owned()), 32, 200);
    assert!(unfinished <= 8, "{unfinished}");
    for text in texts {
        let mut depth = 0_i32;
        for c in text.chars() {
            depth += i32::from(c == '(') - i32::from(c == ')');
            assert!(depth >= 0 && "0123456789+*()".contains(c), "{text:?}");
        }
        assert_eq!(depth, 0, "{text:?}");
    }
}

/// Everything is free before `</think>` and nothing behind it, where the answer also ends as soon as it can.
#[test]
fn the_grammar_begins_behind_the_reasoning() {
    let special = TOKENIZER.special_tokens();
    let end_of_thought = special.think_end.unwrap();
    let compiled = compile(&Grammar::Choice(vec!["yes".to_owned(), "no".to_owned()])).unwrap();
    let requests: Vec<Request> = (0..16)
        .map(|seed| Request {
            // Else a random model thinks for long, or ends at once.
            logit_bias: vec![(end_of_thought, 4.0), (special.eos.unwrap(), 2.0)],
            vocab_limit: TOKENIZER.vocab_size(),
            ..request(compiled.constraints(Some(end_of_thought)), seed, 500)
        })
        .collect();
    let mut reasoned = 0;
    for (tokens, end) in answers(&requests, Mtp::Off) {
        let at = tokens.iter().position(|&id| id == end_of_thought).expect("a thought ends");
        assert_eq!(end.unwrap(), Finish::Stop);
        assert!(["yes", "no"].contains(&TOKENIZER.decode(&tokens[at + 1..], false).as_str()));
        reasoned += at;
    }
    assert!(reasoned > 16, "{reasoned} tokens of reasoning");
}

#[test]
fn proposed_tokens_are_held_to_the_grammar_too() {
    let grammars = [Grammar::JsonSchema(schemas().remove(0)), Grammar::Regex("(ab|ba){4,30}".to_owned())];
    for grammar in grammars {
        let constraints = constraints(&grammar);
        let request = |seed| Request { logprobs: Some(1), ..request(constraints.clone(), seed, 200) };
        let requests: Vec<Request> = (0..12).map(request).collect();
        let of = |mtp| -> Vec<(Vec<u32>, Finish)> {
            answers(&requests, mtp).into_iter().map(|(tokens, end)| (tokens, end.unwrap())).collect()
        };
        assert_eq!(of(Mtp::On), of(Mtp::Off), "{grammar:?}");
    }
}

/// A control token is no text, and a grammar cannot name it by its number either.
#[test]
fn control_tokens_are_never_drawn() {
    let control: Vec<u32> = TOKENIZER.added_tokens().map(|(_, id)| id).collect();
    for lark in ["start: /(.|\\n)*/", "start: <[*]>*", "start: \"<think>\"* \"x\"", "start: <[495-511]>* /[a-z]*/"] {
        let constraints = constraints(&Grammar::Lark(lark.to_owned()));
        let requests: Vec<Request> =
            (0..8).map(|seed| Request { stop: Vec::new(), ..request(constraints.clone(), seed, 60) }).collect();
        for (tokens, _) in answers(&requests, Mtp::Off) {
            assert!(
                !tokens.is_empty() && tokens.iter().all(|id| *id < 512 && !control.contains(id)),
                "{lark}: {tokens:?}"
            );
        }
    }
    let stuck = compile(&Grammar::Lark("start: <[495]>".to_owned())).unwrap_err();
    assert!(matches!(&stuck, Error::Grammar { .. }) && stuck.to_string().contains("no text that it allows"), "{stuck}");
}

/// An answer whose grammar leads nowhere, or costs too much, ends with an error, and those beside it go on.
#[test]
fn an_answer_that_cannot_go_on_ends_alone() {
    let nowhere = constraints(&Grammar::Lark("start: \"a\" <[495]>".to_owned()));
    let expensive = constraints(&Grammar::Lark("start: x*\nx: start x | x start | \"a\" | \"b\"".to_owned()));
    let fine = constraints(&Grammar::Regex("[ab]{40}".to_owned()));
    let requests =
        [request(nowhere, 0, 50), Request { stop: Vec::new(), ..request(expensive, 0, 500) }, request(fine, 0, 50)];
    let ends: Vec<(String, Result<Finish, String>)> = answers(&requests, Mtp::Off)
        .into_iter()
        .map(|(tokens, end)| (TOKENIZER.decode(&tokens, false), end.map_err(|error| error.to_string())))
        .collect();
    let [(nowhere, end), (expensive, too_much), (fine, stop)] = ends.as_slice() else { unreachable!() };
    assert_eq!(nowhere, "a");
    assert!(end.as_ref().is_err_and(|error| error.contains("no text can follow")), "{end:?}");
    assert!(expensive.len() > 10);
    assert!(too_much.as_ref().is_err_and(|error| error.contains("too expensive")), "{too_much:?}");
    assert_eq!((fine.len(), stop), (40, &Ok(Finish::Stop)));
}
