//! JSON as Python's `json.dumps` writes it, which is what templates expect of `tojson`: a space after each comma and
//! colon, no escapes beyond those that JSON requires, keys in the order they came in.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

/// `value` as JSON; with `indent`, one element per line.
pub(super) fn dumps(value: &Value, indent: Option<usize>) -> Result<String, Error> {
    let mut out = String::new();
    write_value(&mut out, value, indent, 0)?;
    Ok(out)
}

fn write_value(out: &mut String, value: &Value, indent: Option<usize>, depth: usize) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number if value.is_integer() => out.push_str(&value.to_string()),
        ValueKind::Number => out.push_str(&float(f64::try_from(value.clone())?)),
        ValueKind::String => write_string(out, value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            write_items(out, ['[', ']'], value.try_iter()?, indent, depth, |out, item, depth| {
                write_value(out, &item, indent, depth)
            })?;
        }
        ValueKind::Map => {
            write_items(out, ['{', '}'], value.try_iter()?, indent, depth, |out, key, depth| {
                match key.as_str() {
                    Some(text) => write_string(out, text),
                    None => write_string(out, &key.to_string()),
                }
                out.push_str(": ");
                write_value(out, &value.get_item(&key)?, indent, depth)
            })?;
        }
        other => {
            return Err(Error::new(ErrorKind::InvalidOperation, format!("a value of kind {other} is not JSON")));
        }
    }
    Ok(())
}

fn write_items(
    out: &mut String,
    [open, close]: [char; 2],
    items: impl Iterator<Item = Value>,
    indent: Option<usize>,
    depth: usize,
    mut write: impl FnMut(&mut String, Value, usize) -> Result<(), Error>,
) -> Result<(), Error> {
    let line = |out: &mut String, depth: usize| {
        if let Some(width) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', width * depth));
        }
    };
    out.push(open);
    let mut empty = true;
    for item in items {
        if !empty {
            out.push_str(if indent.is_some() { "," } else { ", " });
        }
        empty = false;
        line(out, depth + 1);
        write(out, item, depth + 1)?;
    }
    if !empty {
        line(out, depth);
    }
    out.push(close);
    Ok(())
}

/// `serde_json` escapes the same characters as Python does with `ensure_ascii=False`: quotes, backslashes and controls.
fn write_string(out: &mut String, text: &str) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

/// Python's `repr`: the shortest digits that read back the same, with an exponent below 1e-4 and from 1e16 on.
fn float(x: f64) -> String {
    if x.is_nan() {
        return "NaN".to_owned();
    }
    if x.is_infinite() {
        return if x > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let scientific = format!("{x:e}");
    let (digits, exponent) = scientific.split_once('e').expect("the format has an exponent");
    let exponent: i32 = exponent.parse().expect("an exponent is a number");
    if (-4..16).contains(&exponent) || x == 0.0 {
        let plain = format!("{x}");
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use minijinja::value::Serde;

    use super::*;

    fn check(json: &str, expected: &str) {
        let value = Value::from(Serde(serde_json::from_str::<serde_json::Value>(json).expect("valid JSON")));
        assert_eq!(dumps(&value, None).expect("it is JSON"), expected);
    }

    /// The right-hand sides are what Python 3 prints for `json.dumps(.., ensure_ascii=False)`.
    #[test]
    fn as_python_writes_it() {
        check(r#"{"b":1,"a":[true,null,"x"]}"#, r#"{"b": 1, "a": [true, null, "x"]}"#);
        check("[]", "[]");
        check("{}", "{}");
        check(
            "[1.0,0.1,-0.0,1e16,1e15,1e-4,1e-5,1.5e300,5e-324,123456.789]",
            "[1.0, 0.1, -0.0, 1e+16, 1000000000000000.0, 0.0001, 1e-05, 1.5e+300, 5e-324, 123456.789]",
        );
        check("[18446744073709551615,-9223372036854775808]", "[18446744073709551615, -9223372036854775808]");
        check(r#""<é\u0001\n\"\\/\u007f'&>""#, "\"<é\\u0001\\n\\\"\\\\/\u{7f}'&>\"");
        check(r#"{"é":{"k":[]}}"#, r#"{"é": {"k": []}}"#);
    }

    #[test]
    fn indented_as_python_does() {
        let value = Value::from(Serde(serde_json::json!({"a": [1, {}], "b": []})));
        assert_eq!(dumps(&value, Some(2)).expect("it is JSON"), "{\n  \"a\": [\n    1,\n    {}\n  ],\n  \"b\": []\n}");
    }
}
