//! Bodies near valid ones, at random: each is read or refused by name, whatever is in it.

use serde_json::{Map, Value, json};
use tensor::Rng;

use crate::error::ApiError;
use crate::fields::Fields;
use crate::openai::{messages, shape};

const BODIES: u64 = 20_000;

/// Has bodies near `body` read: what is refused is refused in a line that names the field.
pub(crate) fn check(body: &Value, read: fn(Fields) -> Result<(), ApiError>) {
    let mut refused = 0;
    for index in 0..BODIES {
        let mut dice = Dice(Rng::new(4, "body", index));
        let mut body = body.clone();
        for _ in 0..dice.below(4) {
            dice.change(&mut body);
        }
        let text = body.to_string();
        let found = Fields::of_body(text.as_bytes()).and_then(read);
        let Err(ApiError { status, code, param, message, .. }) = found else { continue };
        refused += 1;
        assert!(status.as_u16() == 400 && !code.is_empty(), "{code}: {text}");
        assert!(!message.is_empty() && message.len() < 600, "{message}: {text}");
        assert!(param.is_none_or(|param| !param.is_empty() && param.len() < 300), "{message}: {text}");
    }
    assert!((BODIES / 2..BODIES * 9 / 10).contains(&refused), "{refused} of {BODIES} were refused");
}

struct Dice(Rng);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0.below(n as u64) as usize
    }

    fn nasty(&mut self) -> Value {
        let values = [
            json!(null),
            json!(true),
            json!(0),
            json!(-1),
            json!(u64::MAX),
            json!(1e300),
            json!(""),
            json!("\u{0}\u{ffff}"),
            json!("x".repeat(5000)),
            json!([]),
            json!([[[[[]]]]]),
            json!(vec![1; 200]),
            json!({}),
            json!({ "type": "text", "text": "t" }),
            json!({ "type": "function" }),
            json!({ "type": "image_url", "image_url": { "url": "http://x/" } }),
            json!({ "role": "user", "content": "x" }),
            json!({ "x".repeat(3000): 1 }),
        ];
        values[self.below(values.len())].clone()
    }

    /// Changes something inside of `value`, at a random depth.
    fn change(&mut self, value: &mut Value) {
        let inside = match value {
            Value::Array(items) if !items.is_empty() => {
                let at = self.below(items.len());
                match self.below(6) {
                    0 => return drop(items.remove(at)),
                    1 => return items.push(items[at].clone()),
                    _ => &mut items[at],
                }
            }
            Value::Object(map) if !map.is_empty() => {
                let key = map.keys().nth(self.below(map.len())).expect("a key below their number").clone();
                match self.below(8) {
                    0 => return drop(map.remove(&key)),
                    1 => return self.rename(map, &key),
                    _ => &mut map[&key],
                }
            }
            other => return *other = self.nasty(),
        };
        match self.below(4) {
            0 => *inside = self.nasty(),
            1 => *inside = json!([inside.take()]),
            _ => self.change(inside),
        }
    }

    fn rename(&mut self, map: &mut Map<String, Value>, key: &str) {
        let value = map.remove(key).expect("it was there a line ago");
        let ends = ["s", "_", "\u{0}", "é"];
        map.insert(format!("{key}{}", ends[self.below(ends.len())]), value);
    }
}

fn openai(mut fields: Fields) -> Result<(), ApiError> {
    let conversation = messages::messages(&mut fields)?;
    assert!(!conversation.is_empty() && conversation.iter().all(|message| message.role != "developer"));
    let tools = messages::tools(&mut fields)?;
    if let messages::ToolChoice::Named(name) = messages::tool_choice(&mut fields, &tools)? {
        assert!(tools.iter().any(|tool| tool.name == name));
    }
    shape::read(&mut fields)?;
    fields.end()
}

#[test]
fn openai_bodies_are_read_or_refused_by_name() {
    let call = json!({ "id": "c", "type": "function", "function": { "name": "f", "arguments": "{}" } });
    let function =
        json!({ "name": "f", "description": "d", "parameters": { "type": "object", "properties": { "a": {} } } });
    let body = json!({
        "messages": [
            { "role": "developer", "content": "s" },
            { "role": "user", "content": [{ "type": "text", "text": "u" }], "name": "n" },
            { "role": "assistant", "content": null, "tool_calls": [call] },
            { "role": "tool", "tool_call_id": "c", "content": "42" },
        ],
        "tools": [{ "type": "function", "function": function }],
        "tool_choice": { "type": "function", "function": { "name": "f" } },
        "response_format": { "type": "json_schema", "json_schema": { "name": "n", "schema": { "type": "object" } } },
    });
    check(&body, openai);
}
