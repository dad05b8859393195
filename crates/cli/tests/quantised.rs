//! Model directories in other formats, as a user makes, inspects and measures them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use checkpoint::{Format, Load, NamedValues, Reader, Values};
use config::{ModelConfig, QuantizationConfig, WeightFormat, WeightPart};
use serde_json::Value;
use tensor::{Codes, Ctx, Matrix, Rng, Storage, TensorSource, bf16};
use testkit::Golden;

fn output(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hadal"));
    command.args(arguments).stdin(Stdio::null()).output().expect("the program starts")
}

/// What the program says on standard output and on standard error.
#[track_caller]
fn succeed(arguments: &[&str]) -> [String; 2] {
    let out = output(arguments);
    let text = |bytes| String::from_utf8(bytes).expect("output is text");
    let said = [text(out.stdout), text(out.stderr)];
    assert!(out.status.success(), "{arguments:?}: {}", said[1]);
    said
}

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

/// A temporary directory, in which models are named.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("UTF-8").to_owned()
    }

    /// A model with random f32 weights of awkward shapes: groups of 32, halves of 64 and blocks of 128 end within rows.
    fn random(&self, name: &str) -> String {
        let path = self.path(name);
        let sets = ["hidden_size=196", "moe_intermediate_size=90", "kv_lora_rank=64", "intermediate_size=257"];
        let mut arguments = vec!["init", "--preset", "tiny", "--out", &path, "--dtype", "f32"];
        for set in &sets {
            arguments.extend(["--set", *set]);
        }
        succeed(&arguments);
        path
    }

    /// Converts the model `from`; the name of the result, and what was said about it.
    #[track_caller]
    fn convert(&self, from: &str, quant: &str) -> (String, String) {
        let to = self.path(&format!("{} as {quant}", Path::new(from).file_name().unwrap().to_str().unwrap()));
        let [_, said] = succeed(&["convert", "--model", from, "--out", &to, "--quant", quant]);
        (to, said)
    }
}

fn open(dir: &str) -> (ModelConfig, Reader) {
    let config = ModelConfig::read(Path::new(dir).join("config.json")).expect("a config");
    (config, Reader::open(dir).expect("weights").with_dtype(Load::AsStored))
}

/// The files of a directory and their bytes.
fn files(dir: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs_err::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path());
    entries.map(|path| (path.file_name().unwrap().into(), fs_err::read(&path).expect("a file"))).collect()
}

/// `values` as `format` holds them.
fn coded(ctx: &Ctx, values: &[f32], [rows, cols]: [usize; 2], format: WeightFormat) -> Vec<f32> {
    let codes: Codes = match format {
        WeightFormat::F32 => return values.to_vec(),
        WeightFormat::Bf16 => return values.iter().map(|&x| bf16::from_f32(x).to_f32()).collect(),
        WeightFormat::Q4 => ops::quantise::int4(ctx, values, rows, cols),
        WeightFormat::Q8 => ops::quantise::int8(ctx, values, rows, cols),
        WeightFormat::Fp8 => ops::quantise::fp8(ctx, values, rows, cols),
    };
    Storage::matrix(Matrix::new(rows, cols, codes)).to_f32()
}

/// Asserts that every weight of `to` is what its format makes of that of `from`: `target` of its part, or else as it was.
#[track_caller]
fn assert_converted(from: &str, to: &str, target: impl Fn(WeightPart) -> Option<WeightFormat>) {
    let ctx = Ctx::new(2).unwrap();
    let ((config, source), (_, result)) = (open(from), open(to));
    let mut weights = 0;
    for info in source.weights().map(Result::unwrap) {
        weights += 1;
        let name = info.name;
        let Some((weight, format)) = config.weight(name).and_then(|weight| Some((weight, target(weight.part)?))) else {
            let (before, after) = (source.raw(name).unwrap(), result.raw(name).unwrap());
            assert_eq!((before.dtype, before.shape, before.bytes), (after.dtype, after.shape, after.bytes), "{name}");
            continue;
        };
        let values = source.load(name, &weight.dims).unwrap().to_f32();
        let stored = result.load(name, &weight.dims).unwrap();
        assert!(stored.to_f32() == coded(&ctx, &values, weight.dims, format), "{name} as {format}");
    }
    assert_eq!(result.weights().map(Result::unwrap).count(), weights);
}

#[test]
fn every_weight_is_what_its_format_makes_of_it() {
    use WeightFormat::{Bf16, F32, Fp8, Q4, Q8};
    use WeightPart::{Embed, Experts, Head, Router};
    let place = Place::new();
    let model = place.random("model");
    let linear = |part: WeightPart, format| part.is_linear().then_some(format);
    let check = |quant: &str, target: &dyn Fn(WeightPart) -> Option<WeightFormat>, weights: &[(&str, &str)]| {
        let (converted, said) = place.convert(&model, quant);
        assert_converted(&model, &converted, target);
        assert!(!said.contains("warning"), "{said}");
        let (config, _) = open(&converted);
        let block = config.raw().get("quantization_config");
        if weights.is_empty() {
            assert_eq!(block, None);
            return;
        }
        assert_eq!(block.unwrap()["quant_method"], "hadal");
        let block = block.unwrap()["weights"].as_object().unwrap();
        let mut found: Vec<_> = block.iter().map(|(part, format)| (&**part, format.as_str().unwrap())).collect();
        found.sort_unstable();
        assert_eq!(found, weights, "{quant}");
    };
    let all = |format| [("attention", format), ("dense", format), ("experts", format), ("shared", format)];
    check("q4", &|part| linear(part, Q4), &all("q4"));
    check("q8", &|part| linear(part, Q8), &all("q8"));
    check(
        "experts=q4,rest=fp8",
        &|part| if part == Experts { Some(Q4) } else { linear(part, Fp8) },
        &[("attention", "fp8"), ("dense", "fp8"), ("experts", "q4"), ("shared", "fp8")],
    );
    check(
        "head=fp8,embed=q8",
        &|part| match part {
            Head => Some(Fp8),
            Embed => Some(Q8),
            _ => None,
        },
        &[("embed", "q8"), ("head", "fp8")],
    );
    check("bf16", &|part| (part != Router).then_some(Bf16), &[]);
    check("f32", &|part| (part != Router).then_some(F32), &[]);
    check("experts=q8", &|part| (part == Experts).then_some(Q8), &[("experts", "q8")]);
}

#[test]
fn all_linear_layers_in_fp8_are_a_published_directory() {
    let place = Place::new();
    let model = place.random("model");
    let (fp8, _) = place.convert(&model, "fp8");
    assert_converted(&model, &fp8, |part| part.is_linear().then_some(WeightFormat::Fp8));
    let block = QuantizationConfig::Fp8 { scale_fmt: config::ScaleFormat::Float };
    assert_eq!(open(&fp8).0.quantization_config, Some(block));

    let (bf16, said) = place.convert(&fp8, "bf16");
    assert!(!said.contains("warning"), "{said}");
    assert_converted(&fp8, &bf16, |part| (part != WeightPart::Router).then_some(WeightFormat::Bf16));
    let (config, _) = open(&bf16);
    assert_eq!((config.quantization_config.clone(), config.dtype), (None, Some(config::Dtype::Bfloat16)));
}

#[test]
fn the_same_bytes_on_every_run_and_from_any_number_of_threads() {
    let place = Place::new();
    let model = place.random("model");
    let (first, _) = place.convert(&model, "experts=q4,attention=q8,rest=fp8");
    let second = place.path("second/deeper");
    let quant = ["--quant", "rest=fp8,attention=q8,experts=q4"];
    succeed(&[&["--threads", "3", "convert", "--model", &model, "--out", &second][..], &quant].concat());
    assert!(files(&first) == files(&second));
}

#[test]
fn a_published_checkpoint_is_decoded_kept_or_rounded_again() {
    let golden = Golden::named("fp8_odd");
    let source = golden.dir.to_str().unwrap();
    let place = Place::new();
    let (decoded, said) = place.convert(source, "f32");
    assert!(!said.contains("warning"), "{said}");
    assert_converted(source, &decoded, |part| (part != WeightPart::Router).then_some(WeightFormat::F32));

    // Experts in 4 bits: those are rounded twice, which is said; the others stay, scales and all.
    let (mixed, said) = place.convert(source, "experts=q4");
    assert!(said.contains("warning") && said.contains("a second time") && said.contains(".experts."), "{said}");
    assert_converted(source, &mixed, |part| (part == WeightPart::Experts).then_some(WeightFormat::Q4));
    let ((config, before), (_, after)) = (open(source), open(&mixed));
    for info in before.weights().map(Result::unwrap) {
        if info.format == Format::Fp8 && config.weight(info.name).unwrap().part != WeightPart::Experts {
            let scale = format!("{}_scale_inv", info.name);
            assert_eq!(before.raw(&scale).unwrap().bytes, after.raw(&scale).unwrap().bytes, "{scale}");
        }
    }
    let (same, said) = place.convert(source, "fp8");
    assert!(!said.contains("warning"), "{said}");
    assert_converted(source, &same, |_| None);
    assert_eq!(open(&same).0.quantization_config, open(source).0.quantization_config);
}

/// The exit of a model that is used as it is stored and of one with the decoded weights.
#[test]
fn quantised_weights_give_the_logits_of_their_values() {
    let place = Place::new();
    let model = place.random("model");
    for quant in ["experts=q4,rest=fp8", "q8,head=q4,embed=q8"] {
        let (stored, _) = place.convert(&model, quant);
        let (decoded, _) = place.convert(&stored, "f32");
        let logits = |dir: &str| {
            let out = format!("{dir}.safetensors");
            succeed(&["logits", "--model", dir, "--ids", "5,99,3,271,8,8,120", "--out", &out, "--dtype", "f32"]);
            let reader = Reader::open_file(&out).unwrap();
            let shape = reader.raw("logits").unwrap().shape.to_vec();
            reader.values::<f32>("logits", &shape).unwrap()
        };
        let (got, want) = (logits(&stored), logits(&decoded));
        let bar = 1e-5 * testkit::max_abs(&want);
        assert!(testkit::max_difference(&got, &want) <= bar, "{quant}: {}", testkit::max_difference(&got, &want));
    }
}

#[test]
fn what_cannot_be_converted_is_refused_and_leaves_nothing() {
    let place = Place::new();
    let model = place.random("model");
    let out = place.path("out");
    let refused = |model: &str, quant: &str, code: i32, words: &[&str]| {
        fail(&["convert", "--model", model, "--out", &out, "--quant", quant], code, words);
        assert!(!Path::new(&out).exists(), "{quant}");
    };
    refused(&model, "q5", 2, &["\"q5\"", "q4, q8, fp8, bf16, f32"]);
    refused(&model, "expert=q4", 2, &["\"expert\"", "experts, attention"]);
    refused(&model, "q4,q8", 2, &["twice"]);
    refused(&model, "experts=q4,attention=q4,shared=q4,dense=q4,rest=q8", 2, &["rest=q8"]);
    refused(&place.path("none"), "q4", 1, &["none"]);
    let no_dense = Golden::named("dense0");
    refused(no_dense.dir.to_str().unwrap(), "dense=q8,rest=q4", 2, &["names dense"]);

    // A config that is not that of the weights.
    let other = place.path("other");
    fs_err::create_dir(&other).unwrap();
    for (name, bytes) in files(&model) {
        fs_err::write(Path::new(&other).join(name), bytes).unwrap();
    }
    let changes = serde_json::json!({ "moe_intermediate_size": 91 });
    let changed = open(&model).0.with_overrides(changes.as_object().unwrap()).unwrap();
    changed.write(Path::new(&other).join("config.json")).unwrap();
    refused(&other, "q4", 5, &["experts.0", "[196, 90]", "[196, 91]"]);

    fs_err::create_dir(&out).unwrap();
    fs_err::write(Path::new(&out).join("mine.txt"), "mine").unwrap();
    fail(&["convert", "--model", &model, "--out", &out, "--quant", "q4"], 2, &["mine.txt", "name a new directory"]);
    fail(&["convert", "--model", &model, "--out", &model, "--quant", "q4"], 2, &["name a new directory"]);
    assert_eq!(fs_err::read_to_string(Path::new(&out).join("mine.txt")).unwrap(), "mine");
}

/// A directory with the config of `tiny` and these tensors.
fn write_model(dir: &str, tensors: &[(&str, Vec<usize>, Vec<f32>)]) {
    fs_err::create_dir(dir).unwrap();
    config::presets::preset("tiny").unwrap().write(Path::new(dir).join("config.json")).unwrap();
    let arrays: Vec<_> = tensors
        .iter()
        .map(|(name, dims, values)| NamedValues {
            name: (*name).into(),
            dims: dims.clone(),
            values: Values::F32(values),
        })
        .collect();
    checkpoint::write_file(Path::new(dir).join("model.safetensors"), &arrays).unwrap();
}

#[test]
fn damaged_sources_are_refused_with_the_tensor_named() {
    let place = Place::new();
    let name = "model.layers.1.mlp.experts.3.up_proj.weight";
    let expert = |bad: f32| {
        let mut values = vec![1.0; 24 * 64];
        values[70] = bad;
        (name, vec![24, 64], values)
    };
    let cases: [(&str, Vec<_>, i32, &[&str]); 5] = [
        ("nan", vec![expert(f32::NAN)], 1, &[name, "NaN at [1, 6]"]),
        ("infinite", vec![expert(f32::INFINITY)], 1, &[name, "inf at [1, 6]"]),
        ("orphan", vec![expert(0.0), ("x_scale_int4", vec![1, 1], vec![1.0])], 5, &["x_scale_int4", "`x` is nowhere"]),
        (
            "stray",
            vec![expert(0.0), ("model.layers.1.mlp.experts.3.up_proj.weight_scale_int8", vec![24, 2], vec![1.0; 48])],
            5,
            &[name, "F32", "weight_scale_int8"],
        ),
        (
            "unknown",
            vec![expert(0.0), ("model.vision.weight", vec![2, 2], vec![1.0; 4])],
            1,
            &["`model.vision.weight`"],
        ),
    ];
    for (case, tensors, code, words) in cases {
        let (dir, out) = (place.path(case), place.path("out"));
        write_model(&dir, &tensors);
        fail(&["convert", "--model", &dir, "--out", &out, "--quant", "q4"], code, words);
        let left: Vec<_> = files_in(place.0.path()).into_iter().filter(|name| name.contains("out")).collect();
        assert!(left.is_empty(), "{case}: {left:?}");
    }
}

fn files_in(dir: &Path) -> Vec<String> {
    fs_err::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn inspect_shows_what_is_stored() {
    let place = Place::new();
    let model = place.random("model");
    let (converted, _) = place.convert(&model, "experts=q4,rest=fp8");
    let [json, _] = succeed(&["inspect", &converted, "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    let stored = json["stored"].as_array().unwrap();
    let row = |part: &str| stored.iter().find(|row| row["part"] == part).unwrap();
    assert_eq!((row("experts")["format"].as_str(), row("attention")["format"].as_str()), (Some("q4"), Some("fp8")));
    assert_eq!(row("router")["format"], "f32");
    // 90 rows of 196 columns, gate and up, and 196 of 90, in as many experts as there are.
    let expert = 2 * 90 * (128 + 2 * 7) + 196 * (64 + 2 * 3);
    assert_eq!(row("experts")["bytes"].as_u64().unwrap(), row("experts")["weights"].as_u64().unwrap() / 3 * expert);
    assert_eq!(row("experts")["parameters"].as_u64().unwrap() % (3 * 90 * 196), 0);
    let bytes: u64 = stored.iter().map(|row| row["bytes"].as_u64().unwrap()).sum();
    let reader = Reader::open(&converted).unwrap();
    assert_eq!(bytes, reader.tensors().map(|t| t.bytes).sum::<u64>());

    // A config that says otherwise than the tensors.
    let weights = serde_json::json!({ "experts": "q8", "attention": "fp8", "shared": "fp8", "dense": "fp8" });
    let block = serde_json::json!({ "quant_method": "hadal", "version": 1, "weights": weights });
    let changes = serde_json::Map::from_iter([("quantization_config".to_owned(), block)]);
    let contradicting = place.path("contradicting");
    fs_err::create_dir(&contradicting).unwrap();
    for (name, bytes) in files(&converted) {
        fs_err::write(Path::new(&contradicting).join(name), bytes).unwrap();
    }
    let changed = open(&converted).0.with_overrides(&changes).unwrap();
    changed.write(Path::new(&contradicting).join("config.json")).unwrap();
    let words = [".experts.", "stored as q4", "has experts as q8"];
    fail(&["inspect", &contradicting], 1, &words);
    let out = place.path("out");
    fail(&["convert", "--model", &contradicting, "--out", &out, "--quant", "bf16"], 1, &words);

    let [text, _] = succeed(&["inspect", &converted]);
    assert!(text.contains("Stored in the directory") && text.contains("experts     q4"), "{text}");
    let [json, _] = succeed(&["inspect", "tiny", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["stored"], Value::Null);
}

/// A model that has seen a text for a few steps, with its tokenizer.
fn trained(place: &Place) -> String {
    let mut rng = Rng::new(1, "test text", 0);
    let words = ["the", "sea", "is", "deep", "and", "cold", "light", "ends", "here", "fish"];
    let ends = |i: usize| if i % 9 == 8 { ".\n" } else { " " };
    let text: String = (0..4000).flat_map(|i| [words[rng.below(10) as usize], ends(i)]).collect();
    fs_err::write(place.path("text.txt"), text).unwrap();
    let recipe = r#"
out = "run"
[model]
preset = "tiny"
[model.set]
num_hidden_layers = 2
[tokenizer]
train_vocab_size = 300
[data]
seq_len = 32
held_out = 0.1
sources = [{ name = "sea", paths = ["text.txt"], cut_bytes = 500 }]
[train]
total_tokens = 2560
micro_batch = 2
[batch]
start = 2
end = 2
[lr]
peak = 1e-3
warmup_steps = 5
[validation]
every_steps = 100
sequences = 2
"#;
    fs_err::write(place.path("recipe.toml"), recipe).unwrap();
    succeed(&["pretrain", &place.path("recipe.toml")]);
    place.path("run/checkpoints/latest")
}

#[test]
fn eval_measures_what_the_logits_say() {
    let place = Place::new();
    let model = trained(&place);
    let text = "the sea is deep.";
    fs_err::write(place.path("short.txt"), text).unwrap();
    let eval = |arguments: &[&str]| -> Value {
        let [json, _] = succeed(&[&["eval", "--model", &model, "--json", "--dtype", "f32"][..], arguments].concat());
        serde_json::from_str(&json).unwrap()
    };
    let short = place.path("short.txt");
    let report = eval(&["--text", &short, "--context", "32"]);

    // The same from the logits of the whole text behind the token that begins it.
    let tokenizer = tokenizer::Tokenizer::read(&model).unwrap();
    let mut ids = vec![tokenizer.require(tokenizer::Role::Eos).unwrap()];
    ids.extend(tokenizer.encode_untrusted(text));
    let numbers: Vec<String> = ids.iter().map(u32::to_string).collect();
    let out = place.path("logits.safetensors");
    succeed(&["logits", "--model", &model, "--ids", &numbers.join(","), "--out", &out]);
    let reader = Reader::open_file(&out).unwrap();
    let shape = reader.raw("logits").unwrap().shape.to_vec();
    let logits = reader.values::<f32>("logits", &shape).unwrap();
    let nats: f64 = logits
        .chunks(shape[1])
        .zip(&ids[1..])
        .map(|(row, &target)| {
            let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
            sum.ln() - f64::from(row[target as usize])
        })
        .sum();
    let bits = nats / std::f64::consts::LN_2 / text.len() as f64;
    assert!((report["bits_per_byte"].as_f64().unwrap() - bits).abs() < 1e-5, "{report} {bits}");
    assert_eq!(report["tokens"].as_u64().unwrap(), ids.len() as u64 - 1);
    assert_eq!((report["bytes"].as_u64().unwrap(), report["documents"].as_u64().unwrap()), (16, 1));

    // Windows change what a token sees, not how often it is asked for; a copy in JSONL is the same text.
    let long = place.path("text.txt");
    let json = serde_json::json!({ "text": fs_err::read_to_string(&long).unwrap() });
    fs_err::write(place.path("text.jsonl"), format!("{json}\n")).unwrap();
    let wide = eval(&["--text", &long, &short, "--context", "64"]);
    let narrow = eval(&["--text", &place.path("text.jsonl"), &short, "--context", "16", "--stride", "16"]);
    for report in [&wide, &narrow] {
        assert_eq!(report["bytes"], 16 + fs_err::metadata(&long).unwrap().len());
        assert_eq!(report["files"].as_array().unwrap().len(), 2);
    }
    assert_eq!(wide["tokens"], narrow["tokens"]);
    assert_ne!(wide["nats"], narrow["nats"]);
    assert_eq!(eval(&["--threads", "1", "--text", &long, &short, "--context", "64"]), wide);
    let [line, _] = succeed(&["eval", "--model", &model, "--text", &short, "--context", "32"]);
    assert!(line.contains(&format!("{bits:.4} bits per byte")) && line.contains("windows of 32 by 16, f32"), "{line}");

    // A model in other formats predicts nearly as well.
    let (converted, _) = place.convert(&model, "experts=q4,rest=fp8");
    let [json, _] = succeed(&["eval", "--model", &converted, "--json", "--text", &long, "--context", "64"]);
    let quantised: Value = serde_json::from_str(&json).unwrap();
    let exact = eval(&["--text", &long, "--context", "64"])["bits_per_byte"].as_f64().unwrap();
    assert!((quantised["bits_per_byte"].as_f64().unwrap() - exact).abs() < 0.02 * exact, "{quantised} {exact}");
    let kept = files_in(Path::new(&converted));
    for file in ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "config.json"] {
        assert!(kept.iter().any(|name| name == file), "{file} in {kept:?}");
    }

    for (arguments, words) in [
        (&["--stride", "0"][..], &["--stride 0"][..]),
        (&["--context", "16", "--stride", "17"], &["--context 16", "--stride 17"]),
        (&["--context", "1000000"], &["--context 1000000", "positions"]),
    ] {
        fail(&[&["eval", "--model", &model, "--text", &short][..], arguments].concat(), 2, words);
    }
    fs_err::write(place.path("empty.txt"), "").unwrap();
    fail(&["eval", "--model", &model, "--text", &place.path("empty.txt")], 2, &["no text"]);
    fail(&["eval", "--model", &model, "--text", &place.path("none.txt")], 1, &["none.txt"]);
}
