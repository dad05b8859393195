//! Grammars that were written to hurt, or by accident. Each is refused or compiled in little time, and answers to it cannot
//! take much at a step. All of this runs on the small stack of a test's thread, as an engine's does.

use std::time::{Duration, Instant};

use grammar::{Error, Function, Grammar, limits};
use serde_json::{Value, json};
use tensor::Rng;
use tokenizer::ChatFormat;

use crate::common::{compile, walk};
use crate::texts::schemas;

/// More than anything here takes on a slow and busy machine; without ceilings some would take hours.
const PATIENCE: Duration = Duration::from_secs(20);

/// Compiles and draws some tokens. The result is what either of them says.
fn survive(name: &str, grammar: &Grammar) -> Result<(), String> {
    let start = Instant::now();
    let compiled = compile(grammar);
    let (compiling, start) = (start.elapsed(), Instant::now());
    let result = match compiled {
        Err(error) => Err(error.to_string()),
        Ok(compiled) => {
            let walked = walk(&compiled.constraints(None), &mut Rng::new(1, "walk", 0), 40);
            walked.map(|_| ()).map_err(|error| format!("later: {error}"))
        }
    };
    println!("{name}: {compiling:?}, {:?}: {result:?}", start.elapsed());
    assert!(compiling + start.elapsed() < PATIENCE, "{name} took {compiling:?} and {:?}", start.elapsed());
    if let Err(message) = &result {
        assert!(message.len() < 1000 && !message.contains("panic"), "{name}: {message}");
    }
    result
}

fn nested(n: usize, open: &str, inner: &str, close: &str) -> String {
    open.repeat(n) + inner + &close.repeat(n)
}

/// So many objects with so many patterns of properties, put together.
fn patterns(n: usize, alternatives: usize) -> Value {
    let patterns: serde_json::Map<String, Value> =
        (0..n).map(|i| (format!("^(a|b)*a(a|b){{6}}c{i}$"), json!({}))).collect();
    let half = json!({ "anyOf": vec![json!({ "patternProperties": patterns }); alternatives / 2] });
    if alternatives == 0 { json!({ "patternProperties": patterns }) } else { json!({ "allOf": [half.clone(), half] }) }
}

#[test]
fn what_is_too_large_is_refused_before_it_is_compiled() {
    let deep = (0..2000).fold(json!({}), |schema, _| json!({ "items": schema }));
    let many: Vec<usize> = (0..20_000).collect();
    let wide: serde_json::Map<String, Value> = (0..1025).map(|i| (i.to_string(), json!({}))).collect();
    let long = json!({ "const": "x".repeat(limits::BYTES) });
    let references: serde_json::Map<String, Value> =
        (0..300).map(|i| (format!("a{i}"), json!({ "$ref": format!("#/$defs/a{}", i + 1) }))).collect();
    let function = |name: &str| Function { name: name.to_owned(), parameters: None };
    let tools = |functions| Grammar::Tools { format: ChatFormat::V31, functions, parallel: true };
    let half = json!({ "const": "x".repeat(limits::BYTES / 2) });
    let large = |name: &str| Function { name: name.to_owned(), parameters: Some(half.clone()) };
    for (grammar, want) in [
        (Grammar::JsonSchema(deep), "65 levels, but may have at most 64"),
        (Grammar::JsonSchema(json!({ "enum": many })), "16385 values"),
        (Grammar::JsonSchema(json!({ "properties": wide })), "1025 entries in one object"),
        (Grammar::JsonSchema(patterns(9, 0)), "9 patterns of properties"),
        (Grammar::JsonSchema(patterns(2, 20)), "22 alternatives and references beside patterns"),
        (Grammar::JsonSchema(long), "bytes, but may have at most 131072"),
        (Grammar::JsonSchema(json!({ "$defs": references, "$ref": "#/$defs/a0" })), "301 references"),
        (Grammar::Regex("a".repeat(200_000)), "200000 bytes"),
        (Grammar::Lark("a".repeat(200_000)), "200000 bytes"),
        (Grammar::Lark("\n".repeat(1001)), "1001 lines"),
        (Grammar::Choice(vec!["a".to_owned(); 1025]), "1025 entries"),
        (Grammar::Choice(vec!["a".repeat(70_000); 2]), "140000 bytes"),
        (tools(vec![function("f"); 129]), "129 functions"),
        (tools(vec![large("f"), large("g")]), "bytes together with the others"),
        (tools(vec![function(&"f".repeat(129))]), "129 bytes"),
    ] {
        let error = compile(&grammar).unwrap_err();
        assert!(matches!(error, Error::Limit { .. }) && error.to_string().contains(want), "{error}");
    }
    let parameters = |schema: Value| Function { name: "f".to_owned(), parameters: Some(schema) };
    for (grammar, want) in [
        (
            tools(vec![function("g"), parameters(json!({ "not": {} }))]),
            "cannot use the parameters of the function \"f\": Unimpl",
        ),
        (tools(vec![parameters(json!({ "type": "string" }))]), "the parameters of the function \"f\" must be"),
        (tools(vec![parameters(json!(true))]), "the parameters of the function \"f\" must be"),
        (Grammar::Choice(vec![]), "the list of choices is empty"),
        (Grammar::Choice(vec!["a".to_owned(), String::new()]), "choice 1 is an empty text"),
        (tools(vec![]), "the list of functions is empty"),
        (tools(vec![function("a\nb")]), "a function is called \"a\\nb\""),
        (tools(vec![function("")]), "a function is called \"\""),
        (tools(vec![function("f"), function("f")]), "two functions are called \"f\""),
    ] {
        let error = compile(&grammar).unwrap_err().to_string();
        assert!(error.starts_with(want), "{error}");
    }
}

#[test]
fn a_reference_to_elsewhere_is_refused() {
    for reference in ["http://127.0.0.1:1/schema.json", "file:///etc/passwd", "other.json#/a", "//host/x"] {
        let schema = json!({ "type": "array", "items": { "anyOf": [{ "$ref": reference }] } });
        let error = compile(&Grammar::JsonSchema(schema)).unwrap_err();
        assert!(matches!(&error, Error::Reference(found) if found == reference), "{error}");
    }
    let nested = format!("start: %json {}", json!({ "$ref": "http://127.0.0.1:1/schema.json" }));
    assert!(compile(&Grammar::Lark(nested)).is_err());
    let own = json!({ "$id": "http://127.0.0.1:1/schema.json", "$ref": "#/nowhere" });
    assert!(compile(&Grammar::JsonSchema(own)).is_err());
}

#[test]
fn schemas_that_ask_for_much() {
    let properties = |n: usize, rule: Value| -> Value {
        json!({ "properties": (0..n).map(|i| (format!("p{i}"), rule.clone())).collect::<serde_json::Map<_, _>>() })
    };
    let chain: serde_json::Map<String, Value> = (0..255)
        .map(|i| {
            (
                format!("a{i}"),
                json!({ "type": "object", "properties": { "x": { "$ref": format!("#/$defs/a{}", (i + 1) % 255) } } }),
            )
        })
        .collect();
    let siblings: serde_json::Map<String, Value> = (0..255)
        .map(|i| {
            (
                format!("a{i}"),
                json!({ "minItems": 1, "items": { "maxItems": 3, "$ref": format!("#/$defs/a{}", (i + 1) % 255) } }),
            )
        })
        .collect();
    let any_of = json!({ "anyOf": (0..8).map(|i| json!({ "type": "object", "required": [format!("r{i}")] })).collect::<Vec<_>>() });
    let pattern = |pattern: &str| json!({ "type": "string", "pattern": pattern });
    let cases = [
        ("enum", json!({ "enum": (0..10_000).map(|i| format!("value {i}")).collect::<Vec<_>>() })),
        ("enum of numbers", json!({ "enum": (0..10_000).collect::<Vec<_>>() })),
        ("enum of objects", json!({ "enum": (0..3000).map(|i| json!({ "a": i })).collect::<Vec<_>>() })),
        ("properties", properties(1024, json!({ "type": "null" }))),
        ("free properties", properties(1024, json!({}))),
        ("arrays in arrays", serde_json::from_str(&nested(30, "{\"items\":{\"anyOf\":[", "{}", "]}}")).unwrap()),
        ("all of any of", json!({ "allOf": vec![any_of; 12] })),
        ("one of", json!({ "oneOf": (0..4000).map(|i| json!({ "const": i })).collect::<Vec<_>>() })),
        ("chain", json!({ "$defs": chain, "$ref": "#/$defs/a0" })),
        ("chain with siblings", json!({ "$defs": siblings, "$ref": "#/$defs/a0" })),
        ("itself", json!({ "$ref": "#" })),
        (
            "each other",
            json!({ "$defs": { "a": { "$ref": "#/$defs/b" }, "b": { "$ref": "#/$defs/a" } }, "$ref": "#/$defs/a" }),
        ),
        (
            "long arrays",
            json!({ "items": { "items": { "type": "object" }, "minItems": 1_000_000 }, "minItems": 1_000_000_000 }),
        ),
        ("far bounds", json!({ "minItems": u64::MAX, "type": "array" })),
        ("long strings", json!({ "type": "string", "minLength": 100_000, "maxLength": 1_000_000_000 })),
        (
            "many properties",
            json!({ "type": "object", "minProperties": 1_000_000, "maxProperties": 4_000_000_000_u64 }),
        ),
        ("catastrophic", pattern("^(a+)+$")),
        ("catastrophic too", pattern("^(a|a)*b(.*a){20}$")),
        ("far counts", pattern("^((a{1000}){1000}){1000}$")),
        ("counts of all", pattern("^.{5000}x.{5000}$")),
        ("exponential automaton", pattern("(a|b)*a(a|b){30}$")),
        ("parentheses", pattern(&nested(5000, "(", "a", ")"))),
        ("letters", pattern(r"^(\p{L}|\p{N}){200}$")),
        ("patterns", json!({ "patternProperties": { "^(a|b)*a(a|b){20}$": {}, "^(b|a)*b(a|b){21}$": {} } })),
        ("many patterns", patterns(8, 14)),
        ("multiple", json!({ "type": "integer", "multipleOf": 999_983, "minimum": 10, "maximum": 1e300 })),
        ("multiples", json!({ "allOf": [{ "type": "integer", "multipleOf": 99_991 }, { "multipleOf": 99_989 }] })),
        ("fine multiple", json!({ "type": "number", "multipleOf": 1e-300 })),
    ];
    let mut refused = Vec::new();
    for (name, schema) in cases {
        if survive(name, &Grammar::JsonSchema(schema)).is_err() {
            refused.push(name);
        }
    }
    let want = [
        "enum of objects",
        "arrays in arrays",
        "all of any of",
        "one of",
        "chain with siblings",
        "itself",
        "each other",
        "parentheses",
        "patterns",
        "multiple",
        "multiples",
        "fine multiple",
    ];
    assert_eq!(refused, want);
}

#[test]
fn schemas_that_make_no_sense_are_refused() {
    for schema in [
        json!(5),
        json!("object"),
        json!(false),
        json!([]),
        json!({ "type": 5 }),
        json!({ "type": "strnig" }),
        json!({ "type": [3] }),
        json!({ "type": "string", "pattern": [] }),
        json!({ "type": "string", "pattern": "(" }),
        json!({ "type": "string", "pattern": "(?=a)b" }),
        json!({ "type": "string", "minLength": -1 }),
        json!({ "type": "string", "minLength": 1e300 }),
        json!({ "type": "string", "minLength": 4, "maxLength": 3 }),
        json!({ "type": "string", "format": 7 }),
        json!({ "type": "object", "properties": [] }),
        json!({ "type": "object", "required": "x" }),
        json!({ "type": "array", "items": 3 }),
        json!({ "type": "array", "minItems": 2, "maxItems": 1 }),
        json!({ "type": "integer", "minimum": "a" }),
        json!({ "type": "integer", "minimum": 3, "maximum": 2 }),
        json!({ "enum": {} }),
        json!({ "enum": [] }),
        json!({ "anyOf": [] }),
        json!({ "allOf": 1 }),
        json!({ "not": { "type": "string" } }),
        json!({ "if": {}, "then": {} }),
        json!({ "type": "array", "uniqueItems": true }),
        json!({ "$ref": 5 }),
        json!({ "$ref": "#/$defs/none" }),
    ] {
        let message = survive(&schema.to_string(), &Grammar::JsonSchema(schema)).expect_err("it makes no sense");
        assert!(message.starts_with("cannot use the JSON schema: "), "{message}");
    }
}

#[test]
fn other_grammars_that_ask_for_much() {
    let rules: Vec<String> = (0..998).map(|i| format!("r{i}: r{}\n", i + 1)).collect();
    let rules = rules.concat();
    let terminals: Vec<String> = (0..998).map(|i| format!("T{i}: T{} | \"{i}\"\n", i + 1)).collect();
    let terminals = terminals.concat();
    let mut rng = Rng::new(9, "letters", 0);
    let letters: String = (0..20_000).map(|_| char::from(b'a' + rng.below(4) as u8)).collect();
    for (name, lark) in [
        ("parentheses", format!("start: {}", nested(30_000, "(", "\"a\"", ")"))),
        ("not", format!("start: {}\"a\"", "~".repeat(100_000))),
        ("rules", format!("start: r0\n{rules}r998: \"a\"\n")),
        ("terminals", format!("start: T0\n{terminals}T998: \"a\"\n")),
        ("ambiguous", "start: start start | \"a\"".to_owned()),
        ("more ambiguous", "start: x*\nx: start x | x start | \"a\" | \"ab\" | \"b\"".to_owned()),
        ("without end", "start: start".to_owned()),
        ("empty loop", "start: e*\ne: \"\" | e e".to_owned()),
        ("repeats", "start: (((\"a\"{1,1000}){1,1000}){1,1000}){1,1000}".to_owned()),
        ("automaton", "start: /(a|b)*a(a|b){25}/".to_owned()),
        ("and not", "start: T\nT: /(a|b)*a(a|b){12}/ & ~/(a|b)*b(a|b){13}/".to_owned()),
        ("bytes", "%llguidance { \"allow_invalid_utf8\": true }\nstart: /(?s-u:.)*/".to_owned()),
        ("nested", format!("start: {}", nested(40, "%lark { start: ", "\"a\"", " }"))),
        ("json", format!("start: %json {}", nested(120, "{\"items\":", "{}", "}"))),
        ("words", format!("start: W\nW: %regex {{ \"substring_words\": {:?} }}", "a b ".repeat(10_000))),
        ("characters", format!("start: W\nW: %regex {{ \"substring_chars\": {letters:?} }}")),
        ("no start", "begin: \"a\"".to_owned()),
        ("nothing", String::new()),
        ("noise", "\u{0}%%:@<[}{".repeat(50)),
        ("ends at the end", "start: t\nt[stop=\"\"]: /[a-z]*/".to_owned()),
        ("stop", "start: t \"x\"\nt[stop=\"q\"]: /[a-z]*/".to_owned()),
        ("temperature", "start: t\nt[temperature=0.5, max_tokens=3]: /.*/".to_owned()),
    ] {
        drop(survive(name, &Grammar::Lark(lark)));
    }
    for (name, regex) in [
        ("parentheses", nested(10_000, "(", "a", ")")),
        ("counts", "((a{1000}){1000}){1000}".to_owned()),
        ("automaton", "(a|b)*a(a|b){25}".to_owned()),
        ("any case", r"(?i)(\w|\p{L}){500}".to_owned()),
        ("choices", (0..8000).map(|i| i.to_string()).collect::<Vec<_>>().join("|")),
        ("look-around", "(?=a)b".to_owned()),
        ("backwards", r"(a)\1".to_owned()),
        ("open", "(".to_owned()),
        ("lark inside", "a/ \"b\" /c".to_owned()),
        ("slash", r"a\/b\\/".to_owned()),
        ("nothing", String::new()),
        ("never", "[a&&b]".to_owned()),
    ] {
        drop(survive(name, &Grammar::Regex(regex)));
    }
}

/// Schemas with a few parts exchanged, taken out or put in.
#[test]
fn no_mutation_of_a_schema_breaks_anything() {
    let mut rng = Rng::new(5, "mutations", 0);
    let parts = [
        json!(null),
        json!(true),
        json!(false),
        json!(-1),
        json!(1e308),
        json!(3),
        json!(""),
        json!("a"),
        json!("#"),
        json!("object"),
        json!("string"),
        json!("^é(x|y)*$"),
        json!("#/$defs/node"),
        json!([]),
        json!({}),
        json!(["a", 1]),
        json!({ "type": "string" }),
        json!({ "minimum": 2 }),
        json!({ "$ref": "#" }),
        json!([{}, { "const": null }]),
    ];
    let keys = [
        "type",
        "enum",
        "const",
        "anyOf",
        "oneOf",
        "allOf",
        "items",
        "prefixItems",
        "properties",
        "required",
        "pattern",
        "format",
        "minimum",
        "maximum",
        "multipleOf",
        "minLength",
        "maxItems",
        "additionalProperties",
        "patternProperties",
        "$ref",
        "$defs",
        "$id",
        "$schema",
        "x-guidance",
        "not",
        "description",
        "minProperties",
    ];
    let (mut compiled, mut refused) = (0, 0);
    for i in 0..400 {
        let schemas = schemas();
        let mut schema = schemas[i % schemas.len()].clone();
        for _ in 0..=rng.below(3) {
            let part = parts[rng.below(parts.len() as u64) as usize].clone();
            let key = keys[rng.below(keys.len() as u64) as usize];
            mutate(&mut schema, &mut rng, &part, key);
        }
        let shown = schema.to_string();
        match compile(&Grammar::JsonSchema(schema)) {
            Ok(grammar) => {
                compiled += 1;
                drop(walk(&grammar.constraints(None), &mut rng, 20));
            }
            Err(error) => {
                refused += 1;
                assert!(!error.to_string().contains("panic"), "{shown}: {error}");
            }
        }
    }
    assert!(compiled > 40 && refused > 40, "{compiled} and {refused}");
}

/// Changes one place of `value`, which `rng` finds.
fn mutate(value: &mut Value, rng: &mut Rng, part: &Value, key: &str) {
    let children = match value {
        Value::Array(items) => items.len(),
        Value::Object(entries) => entries.len(),
        _ => 0,
    };
    if children > 0 && rng.below(3) > 0 {
        let at = rng.below(children as u64) as usize;
        return match value {
            Value::Array(items) => mutate(&mut items[at], rng, part, key),
            Value::Object(entries) => mutate(entries.values_mut().nth(at).unwrap(), rng, part, key),
            _ => unreachable!("it has children"),
        };
    }
    match value {
        Value::Object(entries) if rng.below(3) > 0 => {
            entries.insert(key.to_owned(), part.clone());
        }
        Value::Object(entries) if !entries.is_empty() => {
            let name = entries.keys().nth(rng.below(entries.len() as u64) as usize).unwrap().clone();
            entries.remove(&name);
        }
        Value::Array(items) if rng.below(2) > 0 => items.push(part.clone()),
        value => *value = part.clone(),
    }
}
