//! The program as a user runs it: whole runs, killed and resumed, and what it says of wrong input.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

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
fn succeed(arguments: &[&str]) -> String {
    let out = output(arguments);
    assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("output is text")
}

/// Asserts the exit code and that the message has all of `words`.
#[track_caller]
fn fail(arguments: &[&str], code: i32, words: &[&str]) {
    let out = output(arguments);
    let message = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(code), "{arguments:?}: {message}");
    assert!(!message.contains("panicked"), "{message}");
    for word in words {
        assert!(message.contains(word), "{arguments:?}: no {word:?} in: {message}");
    }
}

/// A folder with a text, and a recipe for a tiny run of it.
fn folder(steps: u64) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut rng = Rng::new(1, "test text", 0);
    let words = ["the", "sea", "is", "deep", "and", "cold", "light", "ends", "here", "fish"];
    let ends = |i: usize| if i % 9 == 8 { ".\n" } else { " " };
    let text: String = (0..6000).flat_map(|i| [words[rng.below(10) as usize], ends(i)]).collect();
    fs_err::write(dir.path().join("text.txt"), text).expect("the text is written");
    let recipe = format!(
        r#"
out = "run"
seed = 7
[model]
preset = "tiny"
[model.set]
num_hidden_layers = 2
[tokenizer]
train_vocab_size = 300
[data]
seq_len = 32
held_out = 0.1
sources = [{{ name = "sea", paths = ["text.txt"], cut_bytes = 500, fim_rate = 0.1 }}]
[train]
total_tokens = {}
micro_batch = 2
[batch]
start = 2
end = 4
ramp_tokens = 1000
[lr]
peak = 1e-3
warmup_steps = 5
[validation]
every_steps = 10
sequences = 8
[samples]
every_steps = 20
prompts = ["the sea"]
max_tokens = 8
temperature = 1.0
[checkpoint]
every_steps = 3
keep_last = 2
[log]
every_steps = 1
"#,
        // The batch grows to four rows after about eleven steps of three.
        steps * 4 * 32
    );
    let path = dir.path().join("recipe.toml");
    fs_err::write(&path, recipe).expect("the recipe is written");
    (dir, path)
}

/// What a run computed, step by step: everything in its log but times and paths.
fn trajectory(run: &Path) -> Vec<String> {
    let log = fs_err::read_to_string(run.join("metrics.jsonl")).expect("the log");
    let timeless = |line: &str| {
        let mut record: Value = serde_json::from_str(line).expect("a record");
        if record["kind"] == "event" {
            return None;
        }
        for key in ["elapsed_s", "tokens_per_s", "mfu"] {
            record.as_object_mut().expect("an object").remove(key);
        }
        Some(record.to_string())
    };
    log.lines().filter_map(timeless).collect()
}

#[test]
fn a_run_killed_at_any_moment_goes_on_bit_for_bit() {
    let (whole, recipe) = folder(60);
    succeed(&["pretrain", recipe.to_str().unwrap()]);
    let want = trajectory(&whole.path().join("run"));
    assert!(want.len() > 60, "steps, validations and samples");

    let (killed, recipe) = folder(60);
    let run = killed.path().join("run");
    let mut rng = Rng::new(2, "test kills", 0);
    let mut child = hadal(&["pretrain", recipe.to_str().unwrap()]).stderr(Stdio::null()).spawn().expect("starts");
    let mut kills = 0;
    while kills < 10 {
        std::thread::sleep(Duration::from_millis(20 + rng.below(400)));
        if child.try_wait().expect("its state").is_some() {
            break;
        }
        child.kill().expect("killed");
        child.wait().expect("ended");
        kills += 1;
        let mut again = hadal(&["resume", run.to_str().unwrap()]);
        if !run.join("recipe.toml").exists() {
            again = hadal(&["pretrain", recipe.to_str().unwrap()]);
        }
        child = again.stderr(Stdio::null()).spawn().expect("starts again");
    }
    child.wait().expect("ended");
    succeed(&["resume", run.to_str().unwrap()]);
    assert!(kills > 0, "the run was over before the first kill");
    assert_eq!(trajectory(&run), want, "after {kills} kills");
}

#[cfg(unix)]
#[test]
fn an_interrupt_saves_and_exits_with_130() {
    let (dir, recipe) = folder(100_000);
    let run = dir.path().join("run");
    let mut child = hadal(&["pretrain", recipe.to_str().unwrap()]).stderr(Stdio::null()).spawn().expect("starts");
    while !run.join("checkpoints/latest").exists() {
        std::thread::sleep(Duration::from_millis(20));
        assert!(child.try_wait().expect("its state").is_none(), "it trains");
    }
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("a signal");
    assert_eq!(child.wait().expect("ended").code(), Some(130));
    let last = trajectory(&run).last().cloned().expect("steps");
    let step = serde_json::from_str::<Value>(&last).unwrap()["step"].as_u64().unwrap();
    assert!(run.join(format!("checkpoints/step-{step}/state/state.json")).exists(), "step {step} is saved");
}

#[test]
fn another_number_of_threads_gives_the_same_run() {
    let (one, recipe) = folder(12);
    succeed(&["--threads", "1", "pretrain", recipe.to_str().unwrap()]);
    let (two, recipe) = folder(12);
    succeed(&["--threads", "2", "pretrain", recipe.to_str().unwrap()]);
    assert_eq!(trajectory(&one.path().join("run")), trajectory(&two.path().join("run")));
}

#[test]
fn what_is_trained_generates_and_chats() {
    let (dir, recipe) = folder(12);
    succeed(&["pretrain", recipe.to_str().unwrap()]);
    let model = dir.path().join("run/checkpoints/latest");
    let model = model.to_str().unwrap();
    let generate = ["generate", "--model", model, "--prompt", "the sea", "--max-tokens", "8", "--seed", "5"];
    let text = succeed(&generate);
    assert!(text.starts_with("the sea"), "{text}");
    assert_eq!(succeed(&generate), text, "the same seed gives the same text");
    let json: Value = serde_json::from_str(&succeed(&[&generate[..], &["--json"]].concat())).unwrap();
    assert_eq!(format!("the sea{}\n", json["text"].as_str().unwrap()), text);
    assert!(json["ids"].as_array().unwrap().len() <= 8);

    let mut chat = hadal(&["chat", "--model", model, "--max-tokens", "4"]);
    let mut child = chat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starts");
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"hello\n\nagain\n/new\nhello\n").expect("it reads");
    drop(child.stdin.take());
    let out = child.wait_with_output().expect("it ends");
    assert!(out.status.success());
    let answers = String::from_utf8(out.stdout).unwrap();
    assert!(answers.lines().count() >= 3, "one answer a turn: {answers:?}");

    let report = fs_err::read_to_string(dir.path().join("run/report.html")).expect("the page");
    assert!(report.contains("<svg") && report.contains("cut_bytes"));
    assert!(
        dir.path()
            .join("run")
            .read_dir()
            .unwrap()
            .any(|e| { e.unwrap().file_name().to_string_lossy().starts_with("events.out.tfevents.") })
    );
}

#[test]
fn logits_of_a_golden_model() {
    let golden = testkit::Golden::named("base");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("out.safetensors");
    let ids: Vec<String> = golden.input_ids().iter().map(u32::to_string).collect();
    let (model, out) = (golden.dir.to_str().unwrap(), file.to_str().unwrap());
    succeed(&["logits", "--model", model, "--ids", &ids.join(","), "--out", out, "--mtp"]);
    let reader = checkpoint::Reader::open_file(&file).unwrap();
    let (want, shape) = golden.floats("logits").unwrap();
    let got = reader.values::<f32>("logits", &shape).unwrap();
    let bar = 1e-5 * (testkit::max_abs(&want) / 4.0).max(1.0);
    assert!(testkit::max_difference(&got, &want) <= bar);
    for name in ["hidden.0", "final_norm", "topk_idx.1", "topk_w.2", "mtp.0.hidden", "mtp.0.logits", "input_ids"] {
        assert!(reader.tensors().any(|t| t.name == name), "{name} is there");
    }
}

#[test]
fn init_writes_what_logits_reads() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    let model = model.to_str().unwrap();
    succeed(&["init", "--preset", "tiny", "--out", model]);
    let out = dir.path().join("l.safetensors");
    succeed(&["logits", "--model", model, "--ids", "1,2,3", "--out", out.to_str().unwrap(), "--dtype", "bf16"]);
    fail(&["init", "--preset", "tiny", "--out", model], 1, &["already holds weights"]);
}

#[test]
fn the_published_count_of_parameters() {
    let text = succeed(&["inspect", "deepseek-v3"]);
    assert!(text.contains("671,026,419,200"), "{text}");
    let json: Value = serde_json::from_str(&succeed(&["inspect", "kimi-k2", "--json"])).unwrap();
    assert!(json["parameters"]["main"].as_u64().unwrap() > 1_000_000_000_000);
}

#[test]
fn wrong_usage_says_what_to_change() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fail(&["inspect", "deepseek-v33"], 2, &["deepseek-v33", "deepseek-v3"]);
    fail(&["init", "--preset", "tiny", "--out", &path("x"), "--set", "n_group=5"], 1, &["n_group", "5"]);
    fail(&["pretrain", &path("none.toml")], 2, &["none.toml"]);
    fail(&["resume", dir.path().to_str().unwrap()], 1, &["holds no run", "recipe.toml"]);
    fail(&["generate", "--model", &path("none")], 1, &["none"]);
    fail(&["quickstart", "--minutes=-1", "--out", &path("q")], 2, &["--minutes"]);
    fs_err::create_dir(path("full")).unwrap();
    fs_err::write(path("full/letter.txt"), "mine").unwrap();
    fail(&["quickstart", "--out", &path("full")], 2, &["letter.txt"]);
    assert_eq!(fs_err::read_to_string(path("full/letter.txt")).unwrap(), "mine");

    let (run, recipe) = folder(4);
    let recipe = recipe.to_str().unwrap();
    fail(&["pretrain", recipe, "--set", "optim.weight_decya=0.1"], 2, &["optim.weight_decya", "optim.weight_decay"]);
    fail(&["pretrain", recipe, "--set", "train.total_tokens=many"], 2, &["train.total_tokens"]);
    fail(&["pretrain", recipe, "--set", "model.set.vocab_size=280"], 2, &["vocab_size", "280"]);
    fail(&["pretrain", recipe, "--set", "tokenizer.train_vocab_size=100"], 2, &["100"]);
    // A recipe that failed leaves nothing in the way of its mended form.
    succeed(&["pretrain", recipe]);
    succeed(&["pretrain", recipe, "--set", &format!("out={}", path("run"))]);
    fail(&["pretrain", recipe, "--set", &format!("out={}", path("run"))], 1, &["already holds a run", "hadal resume"]);
    drop(run);
}

#[test]
fn damaged_weights_are_refused_with_code_5() {
    let golden = testkit::Golden::named("odd_dims");
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs_err::copy(golden.dir.join(file), dir.path().join(file)).unwrap();
    }
    let weights = dir.path().join("model.safetensors");
    let bytes = fs_err::read(&weights).unwrap();
    fs_err::write(&weights, &bytes[..bytes.len() - 5]).unwrap();
    let out = dir.path().join("l.safetensors");
    let arguments = ["logits", "--model", dir.path().to_str().unwrap(), "--ids", "1", "--out", out.to_str().unwrap()];
    fail(&arguments, 5, &["model.safetensors"]);
    assert!(!out.exists());
}

#[test]
fn a_run_that_diverges_stops_before_the_step() {
    let (dir, recipe) = folder(30);
    let recipe = recipe.to_str().unwrap();
    let sets = ["--set", "lr.peak=1e6", "--set", "lr.warmup_steps=10", "--set", "checkpoint.every_steps=1"];
    let out = output(&[&["pretrain", recipe][..], &sets].concat());
    let message = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{message}");
    assert!(
        message.contains("stopped at step") && message.contains("sequences") && message.contains("step-"),
        "{message}"
    );
    let log = fs_err::read_to_string(dir.path().join("run/metrics.jsonl")).unwrap();
    assert!(log.contains("loss_spike") || log.contains("not_finite"), "the log says why");
}
