//! What `hadal plan` says, against what a run then takes.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tensor::Rng;

fn hadal(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hadal"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn output(arguments: &[&str]) -> Output {
    hadal(arguments).output().expect("the program starts")
}

#[track_caller]
fn json(arguments: &[&str]) -> Value {
    let out = output(arguments);
    assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).expect("JSON")
}

/// A recipe with two steps, and a text for it.
fn recipe(dir: &Path) -> String {
    let words = ["the", "sea", "is", "deep", "and", "cold", "light", "ends", "here", "fish"];
    let mut rng = Rng::new(1, "test text", 0);
    let ends = |i: usize| if i % 9 == 8 { ".\n" } else { " " };
    let text: String = (0..20_000).flat_map(|i| [words[rng.below(10) as usize], ends(i)]).collect();
    fs_err::write(dir.join("text.txt"), text).expect("the text is written");
    let path = dir.join("recipe.toml");
    let recipe = r#"
        out = "run"
        model = { preset = "nano", set = { vocab_size = 4096 } }
        tokenizer.train_vocab_size = 300
        data = { seq_len = 512, sources = [{ name = "sea", paths = ["text.txt"], cut_bytes = 500 }] }
        train = { total_tokens = 4096, micro_batch = 4 }
        batch.end = 4
        lr = { peak = 1e-3, warmup_steps = 5 }
        validation.every_steps = 0
        checkpoint.every_steps = 1
    "#;
    fs_err::write(&path, recipe).expect("the recipe is written");
    path.to_str().expect("a path in UTF-8").to_owned()
}

/// The most memory that the process held, in bytes, as Linux counts it.
#[cfg(target_os = "linux")]
fn peak_bytes(mut command: Command) -> u64 {
    // What it says fits a pipe that nobody reads until its end.
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        // The peak only grows, so the last one that is read counts; whoever ends has none.
        let text = fs_err::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak = peak.max(line.map_or(0, |kib| kib.trim().parse::<u64>().expect("a number") * 1024));
        if child.try_wait().expect("its state").is_some() {
            let out = child.wait_with_output().expect("its end");
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            return peak;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_run_takes_the_memory_and_disk_of_its_plan() {
    let small = "model={ preset = \"small\", set = { num_hidden_layers = 3, vocab_size = 8192 } }";
    for sets in [
        vec![],
        vec![small, "optim.moments=bf16", "train.precision=bf16", "train.micro_batch=1", "recompute.mla_up=true"],
    ] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let recipe = recipe(dir.path());
        let sets: Vec<&str> = sets.into_iter().flat_map(|set| ["--set", set]).collect();
        let plan = json(&[&["plan", &recipe, "--json"], &sets[..]].concat());
        let planned = plan["memory"]["total"].as_f64().expect("a number");
        let real = peak_bytes(hadal(&[&["pretrain", &recipe], &sets[..]].concat())) as f64;
        assert!(real > 2e8, "constant parts must not hide errors");
        assert!((planned / real - 1.0).abs() < 0.1, "{sets:?}: planned {planned}, took {real}: {plan:#}");

        let checkpoint = plan["disk"]["checkpoint"].as_f64().expect("a number");
        let real = size(&dir.path().join("run/checkpoints/step-2")) as f64;
        assert!((checkpoint / real - 1.0).abs() < 0.02, "{sets:?}: planned {checkpoint}, wrote {real}");
    }
}

#[cfg(target_os = "linux")]
fn size(path: &Path) -> u64 {
    if path.is_dir() {
        fs_err::read_dir(path).expect("a directory").map(|entry| size(&entry.expect("an entry").path())).sum()
    } else {
        fs_err::metadata(path).expect("a file").len()
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_run_that_cannot_fit_is_refused_before_it_begins() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let recipe = recipe(dir.path());
    let out = output(&["pretrain", &recipe, "--set", "model={ preset = \"deepseek-v3\" }"]);
    let message = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(3), "{message}");
    for word in ["TB of memory", "train.micro_batch=1", "recompute.mla_up=true", "optim.moments=bf16", "hadal plan"] {
        assert!(message.contains(word), "no {word:?} in: {message}");
    }
    assert!(!dir.path().join("run").exists(), "nothing was made");
}

#[cfg(target_os = "linux")]
#[test]
fn a_plan_says_whether_it_fits_and_ends_accordingly() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let recipe = recipe(dir.path());
    let model = ["plan", "--model", "tiny", "--gbs", "10", "--context", "1024"];
    // 2^20 sequences of 1024 tokens are terabytes, as is deepseek-v3 with its moments.
    for (arguments, more) in [
        (&model[..], &["--batch", "1048576"][..]),
        (&["plan", &recipe], &["--set", "model={ preset = \"deepseek-v3\" }"]),
    ] {
        for (arguments, code, fits) in [(arguments.to_vec(), 0, true), ([arguments, more].concat(), 3, false)] {
            let out = output(&arguments);
            assert_eq!(out.status.code(), Some(code), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
            assert_eq!(String::from_utf8_lossy(&out.stdout).contains("not enough"), !fits, "{arguments:?}");
            let out = output(&[&arguments[..], &["--json"]].concat());
            assert_eq!(out.status.code(), Some(code), "{arguments:?}");
            let plan: Value = serde_json::from_slice(&out.stdout).expect("JSON");
            assert_eq!(plan["fits"], fits, "{arguments:?}");
        }
    }
}

#[test]
fn answering_is_planned_from_a_preset_or_a_directory() {
    let v3 = json(&["plan", "--model", "deepseek-v3", "--cache", "fp8", "--gbs", "500", "--context", "512", "--json"]);
    assert_eq!(v3["weights_total"], 688_574_839_360_u64);
    let read = v3["decode_total"].as_f64().expect("a number");
    assert!((v3["tokens_per_s"].as_f64().expect("a number") - 500e9 / read).abs() < 1e-6);

    let dir = tempfile::tempdir().expect("a temporary directory");
    let out = dir.path().join("model");
    let out = out.to_str().expect("a path in UTF-8");
    assert!(output(&["init", "--preset", "tiny", "--out", out]).status.success());
    let arguments = ["--context", "64", "--gbs", "10", "--json"];
    let stored = json(&[&["plan", "--model", out], &arguments[..]].concat());
    let preset = json(&[&["plan", "--model", "tiny"], &arguments[..]].concat());
    for part in ["embedding", "dense_ffn", "routed_experts", "shared_experts", "head"] {
        assert_eq!(stored["weights"][part], preset["weights"][part], "{part}");
    }

    for (arguments, word) in [
        (&["plan"][..], "RECIPE"),
        (&["plan", "--model", "tiny", "--context", "1000000"], "positions"),
        (&["plan", "--model", "tiny", "--gbs", "0"], "bandwidth"),
        (&["plan", "--model", "tinny"], "did you mean"),
        (&["plan", "recipe.toml", "--model", "tiny"], "cannot be used with"),
    ] {
        let out = output(arguments);
        let message = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{arguments:?}: {message}");
        assert!(message.contains(word), "{arguments:?}: {message}");
    }
}
