//! `hadal bench` as a user runs it: the shapes of its reports, and what it says of wrong input.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

/// Exit code, standard output, standard error.
fn hadal(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hadal"));
    let out = command.args(arguments).stdin(Stdio::null()).output().expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("output is text");
    (out.status.code(), text(out.stdout), text(out.stderr))
}

#[track_caller]
fn succeed(arguments: &[&str]) -> String {
    let (code, out, err) = hadal(arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {err}");
    out
}

#[track_caller]
fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&succeed(arguments)).expect("a report is JSON")
}

/// Asserts exit code 2 and that the message has all of `words`.
#[track_caller]
fn refuse(arguments: &[&str], words: &[&str]) {
    let (code, _, err) = hadal(arguments);
    assert_eq!(code, Some(2), "{arguments:?}: {err}");
    for word in words {
        assert!(err.contains(word), "{arguments:?}: no {word:?} in: {err}");
    }
}

/// Asserts that a spread is in order and positive.
#[track_caller]
fn is_spread(spread: &Value) {
    let at = |key: &str| spread[key].as_f64().unwrap_or_else(|| panic!("no {key} in {spread}"));
    let values = ["min", "lower_quartile", "median", "upper_quartile", "max"].map(at);
    assert!(values.is_sorted() && values[0] > 0.0 && at("runs") >= 1.0, "{spread}");
}

fn tiny(dir: &Path) -> String {
    let model = dir.join("model").to_str().expect("a path of text").to_owned();
    succeed(&["init", "--preset", "tiny", "--out", &model]);
    model
}

#[test]
fn the_machine_has_limits() {
    let report = json(&["--threads", "2", "bench", "machine", "--json"]);
    assert_eq!(report["threads"], 2);
    for threads in ["one_thread", "all_threads"] {
        is_spread(&report[threads]["read_gb_per_s"]);
        is_spread(&report[threads]["f32_gflop_per_s"]);
        for kind in ["bf16_gflop_per_s", "int8_gop_per_s"] {
            let rate = &report[threads][kind];
            // Absent is null, never a number.
            if !rate.is_null() {
                is_spread(rate);
            }
        }
    }
    is_spread(&report["job_ns"]["everyone"]);
    assert!(report["caches"].is_array());
}

#[test]
fn a_model_is_timed_beside_its_limits() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let model = tiny(dir.path());
    let sizes = ["--prompt", "5,17", "--batch", "1,3", "--context", "4,9", "--tokens", "3", "--repeat", "2"];
    let arguments = ["--threads", "1", "bench", "infer", "--model", &model, "--json"];
    let report = json(&[&arguments[..], &sizes].concat());
    assert!(report["start_s"].as_f64().expect("a time") > 0.0);
    let rows = |key: &str| report[key].as_array().expect("rows").clone();
    let prefilled: Vec<Value> = rows("prefill").iter().map(|row| row["tokens"].clone()).collect();
    assert_eq!(prefilled, [5, 17]);
    assert!(rows("prefill").iter().all(|row| row["seconds"]["runs"] == 2));
    let decoded: Vec<[u64; 2]> =
        rows("decode").iter().map(|row| ["batch", "context"].map(|key| row[key].as_u64().expect("a number"))).collect();
    assert_eq!(decoded, [[1, 4], [3, 4], [1, 9], [3, 9]]);
    for row in rows("decode") {
        is_spread(&row["tokens_per_s"]);
        assert_eq!(row["step_s"]["runs"], 3);
        // What is timed cannot beat both limits; on a machine with other work they may be measured too low.
        let (least, took) =
            (row["least_step_s"].as_f64().expect("a time"), row["step_s"]["median"].as_f64().expect("a time"));
        assert!(least > 0.0 && least < 10.0 * took, "{row}");
    }
    // A longer context has more latents to read, a larger batch more of everything.
    let bytes: Vec<f64> = rows("decode").iter().map(|row| row["bytes_per_step"].as_f64().expect("bytes")).collect();
    assert!(bytes[0] < bytes[1] && bytes[0] < bytes[2] && bytes[2] < bytes[3], "{bytes:?}");
    assert_eq!(report["memory"].is_null(), !cfg!(target_os = "linux"));

    let text = succeed(&[&arguments[..6], &sizes].concat());
    for word in ["first token of a prompt of 16", "prefill of 17", "decode of 3 at 9", "GB/s"] {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let model = tiny(dir.path());
    let infer = |option: &'static str, value: &'static str, words: &[&str]| {
        refuse(&["bench", "infer", "--model", &model, option, value], words);
    };
    infer("--prompt", "0", &["--prompt", "begin at 1"]);
    infer("--batch", "1,0", &["--batch", "begin at 1"]);
    infer("--tokens", "0", &["--tokens"]);
    infer("--repeat", "0", &["--repeat"]);
    infer("--context", "99999999", &["the model takes", "--context"]);
    infer("--batch", "many", &["--batch"]);
}

#[test]
fn training_is_timed_in_either_precision() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let recipe = dir.path().join("recipe.toml");
    let text = "out = \"run\"\n[model]\npreset = \"tiny\"\n[tokenizer]\npath = \"t.json\"\n[data]\nseq_len = 16\n\
                sources = [{ name = \"none\", paths = [\"none.txt\"] }]\n[train]\ntotal_tokens = 1000\n[batch]\nend = 2\n\
                [lr]\npeak = 1e-4\nwarmup_steps = 1\n";
    fs_err::write(&recipe, text).expect("the recipe is written");
    let recipe = recipe.to_str().expect("a path of text");
    for precision in ["f32", "bf16"] {
        let set = format!("train.precision=\"{precision}\"");
        let report = json(&["--threads", "1", "bench", "train", recipe, "--set", &set, "--json"]);
        assert_eq!((&report["precision"], &report["tokens_per_step"]), (&precision.into(), &32.into()));
        is_spread(&report["tokens_per_s"]);
        is_spread(&report["step_s"]);
        assert!(report["share_of_flops"].as_f64().expect("a share") > 0.0);
    }
    refuse(&["bench", "train", recipe, "--set", "train.precison=1"], &["train.precision"]);
}

#[test]
fn a_kernel_is_found_by_its_name() {
    let report = json(&["--threads", "1", "bench", "kernels", "bias add", "--json"]);
    let rows = report[0]["rows"].as_array().expect("rows");
    assert!(!rows.is_empty() && rows.iter().all(|row| row["name"].as_str().expect("a name").contains("bias add")));
    is_spread(&rows[0]["seconds"]);
    assert!(rows[0]["share_of_read"].as_f64().expect("a share") > 0.0);
    is_spread(&report[0]["limits"]["read_gb_per_s"]);
    refuse(&["--threads", "1", "bench", "kernels", "bias of nobody"], &["bias of nobody"]);
    refuse(&["bench"], &["machine", "kernels", "infer", "train"]);
}
