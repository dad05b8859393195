//! Tool calls, written as each format has them and read back by the parser of answers.

use engine::{Finish, Mtp, Request};
use grammar::{Function, Grammar};
use serde_json::{Value, json};
use tokenizer::{ChatFormat, Start, parse_output};

use crate::common::{TOKENIZER, answers, compile, constraints, request};
use crate::valid::accepts;

fn functions() -> Vec<Function> {
    let weather = json!({
        "type": "object",
        "properties": { "city": { "enum": ["Bern", "日本", "a\nb"] }, "days": { "type": "integer", "minimum": 1, "maximum": 9 } },
        "required": ["city"],
        "additionalProperties": false,
    });
    // Without a type, arguments are an object all the same.
    let free =
        json!({ "properties": { "x": { "type": "boolean" } }, "required": ["x"], "additionalProperties": false });
    let function = |name: &str, parameters| Function { name: name.to_owned(), parameters };
    vec![function("get_weather", Some(weather)), function("get", Some(free)), function("now", None)]
}

fn calls(format: ChatFormat, functions: &[Function], parallel: bool) -> Vec<Vec<(String, Value)>> {
    let constraints = constraints(&Grammar::Tools { format, functions: functions.to_vec(), parallel });
    let requests: Vec<Request> = (0..12).map(|seed| request(constraints.clone(), seed, 400)).collect();
    let mut all = Vec::new();
    for (tokens, end) in answers(&requests, Mtp::Off) {
        if end.unwrap() != Finish::Stop {
            continue;
        }
        let output = parse_output(&TOKENIZER, &tokens, format, Start::Answer).unwrap();
        assert_eq!((output.content.as_str(), &output.reasoning), ("", &None));
        let read = |call: tokenizer::ToolCall| (call.name, serde_json::from_str(&call.arguments).unwrap());
        all.push(output.tool_calls.into_iter().map(read).collect());
    }
    assert!(all.len() >= 9, "{format:?}: {} answers ended", all.len());
    all
}

#[test]
fn calls_are_read_back_with_arguments_that_their_schemas_accept() {
    let functions = functions();
    for format in ChatFormat::ALL {
        let all = calls(format, &functions, true);
        assert!(all.iter().any(|calls| calls.len() > 1), "{format:?}");
        for (name, arguments) in all.iter().flatten() {
            let function = functions.iter().find(|function| function.name == *name).expect("a function that there is");
            assert!(arguments.is_object());
            match &function.parameters {
                Some(schema) => assert!(accepts(schema, schema, arguments), "{name}: {arguments}"),
                None => assert_eq!(*arguments, json!({})),
            }
        }
        assert!(functions.iter().all(|function| all.iter().flatten().any(|(name, _)| *name == function.name)));
        assert!(all.iter().all(|calls| !calls.is_empty()), "one call at least");
    }
}

/// Where nothing demands a call, an answer is free until it begins one.
#[test]
fn calls_that_need_not_come_are_held_from_where_they_begin() {
    let functions = functions();
    let special = TOKENIZER.special_tokens();
    let (begin, end) = (special.tool_calls_begin.unwrap(), special.think_end.unwrap());
    let text = TOKENIZER.encode("Well.");
    for format in ChatFormat::ALL {
        let compiled = compile(&Grammar::Tools { format, functions: functions.clone(), parallel: true }).unwrap();
        for after in [None, Some(end)] {
            let mut constraint = compiled.constraints_of_calls(after).begin();
            let mut free = |ids: &[u32]| {
                for &id in ids {
                    let allowed = constraint.next().unwrap();
                    assert!(allowed.tokens.is_none() && allowed.end && !constraint.is_complete());
                    constraint.push(id).unwrap();
                }
            };
            free(&text);
            // What looks like a call amid the reasoning is none.
            free(after.map(|end| [begin, end]).as_ref().map_or(&[], |ids| ids));
            free(&text);
            free(&[begin]);
            let allowed = constraint.next().unwrap();
            let set = allowed.tokens.expect("a call has begun");
            assert!(!allowed.end && !set.contains(begin) && !set.contains(text[0]));
        }
        // The model is led to a call, and what follows is one that can be read.
        let constraints = compiled.constraints_of_calls(None);
        let request = |seed| Request { logit_bias: vec![(begin, 100.0)], ..request(constraints.clone(), seed, 400) };
        let requests: Vec<Request> = (0..6).map(request).collect();
        let mut ended = 0;
        for (tokens, end) in answers(&requests, Mtp::Off) {
            assert_eq!(tokens[0], begin);
            if end.unwrap() == Finish::Stop {
                let calls = parse_output(&TOKENIZER, &tokens, format, Start::Answer).unwrap().tool_calls;
                assert!(!calls.is_empty() && calls.iter().all(|call| functions.iter().any(|f| f.name == call.name)));
                ended += 1;
            }
        }
        assert!(ended >= 3, "{format:?}: {ended} answers ended");
    }
}

#[test]
fn one_call_of_one_function_is_one() {
    let functions = &functions()[2..];
    for format in ChatFormat::ALL {
        for calls in calls(format, functions, false) {
            assert_eq!(calls, [("now".to_owned(), json!({}))]);
        }
    }
}

/// Whoever serves many at once shares what is compiled.
#[test]
fn what_is_compiled_may_be_shared() {
    fn is_shared<T: Send + Sync>() {}
    is_shared::<grammar::Grammars>();
    is_shared::<grammar::Compiled>();
}
