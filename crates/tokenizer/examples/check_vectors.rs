//! Checks a DeepSeek-V3 `tokenizer.json` against known ids: `cargo run -p tokenizer --example check_vectors -- FILE`.
//!
//! The file has 128,000 entries and is not part of this repository, so the check is a program and not a test.

use std::process::ExitCode;

use tokenizer::{Tokenizer, TokenizerError};

const VECTORS: [(&str, &[u32]); 9] = [
    ("Hello, world!", &[19923, 14, 2058, 3]),
    (" 123 4567", &[223, 6895, 223, 18009, 25]),
    ("a\n\n  b\t c \r\n", &[67, 271, 223, 291, 200, 274, 223, 204, 201]),
    ("don't .NET $foo _bar", &[20385, 1664, 1204, 32438, 957, 40897, 944, 6515]),
    ("x  \n\n y", &[90, 6776, 383]),
    (
        "日本語カタカナひらがな漢字と123",
        &[88768, 15961, 11767, 15961, 27071, 40259, 4970, 2936, 2942, 29069, 2024, 2495, 6895],
    ),
    (
        "fn main() { println!(\"{:?}\", x); }\n",
        &[28952, 1840, 1393, 680, 42432, 64325, 104_369, 33, 52734, 1527, 3171, 1554],
    ),
    ("Hello! 毕老师！1 + 1 = 2", &[19923, 3, 223, 5464, 5008, 1175, 19, 940, 223, 19, 438, 223, 20]),
    ("<｜begin▁of▁sentence｜><｜User｜>hi<｜Assistant｜>", &[0, 128_803, 6366, 128_804]),
];

fn main() -> Result<ExitCode, TokenizerError> {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: check_vectors FILE, where FILE is the tokenizer.json of DeepSeek-V3 or R1");
        return Ok(ExitCode::from(2));
    };
    let tokenizer = Tokenizer::read(path)?;
    let mut failed = 0;
    for (text, expected) in VECTORS {
        let ids = tokenizer.encode(text);
        let untrusted = tokenizer.encode_untrusted(text);
        let good = ids == expected
            && tokenizer.decode(&ids, false) == text
            && tokenizer.decode(&untrusted, false) == text
            && tokenizer.added_tokens().all(|(_, id)| !untrusted.contains(&id));
        if !good {
            failed += 1;
            println!("wrong: {text:?}\n  expected {expected:?}\n  found    {ids:?}\n  untrusted {untrusted:?}");
        }
    }
    println!("{} of {} vectors are right; {tokenizer:?}", VECTORS.len() - failed, VECTORS.len());
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
