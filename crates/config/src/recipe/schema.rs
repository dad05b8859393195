//! Every key of a recipe, once: the parser accepts these and no others, fills in these defaults, and the reference
//! page is printed from these sentences.

/// One key.
pub(super) struct Key {
    /// Dotted path; `[]` after the name of an array of tables.
    pub(super) path: &'static str,
    pub(super) kind: Kind,
    pub(super) if_absent: IfAbsent,
    /// One sentence for the reference page, without the full stop.
    pub(super) doc: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A whole number from 0.
    Int,
    /// A finite number.
    Float,
    /// A number or `inf`.
    FloatOrInf,
    Bool,
    Str,
    Strs,
    /// A path, made absolute when the recipe is read.
    Path,
    Paths,
    OneOf(&'static [&'static str]),
    /// An array of tables whose keys follow under `path[]`.
    Tables,
    /// A table with keys of its own, which this crate does not check here.
    Free,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum IfAbsent {
    Required,
    /// May be left out, which means something that no value says.
    Optional,
    /// A TOML value.
    Value(&'static str),
    /// Follows from other keys by the rule given.
    Derived(&'static str),
}

/// The tables of a recipe, in the order of the reference page.
pub(super) const SECTIONS: &[(&str, &str)] = &[
    ("", "The run"),
    ("model", "The model: a preset or a `config.json`, with changes"),
    ("tokenizer", "Where the tokenizer comes from: one of the two keys"),
    ("data", "The text, tokenised once and packed into rows"),
    ("data.sources[]", "One source of text; a run mixes all of them by weight"),
    ("train", "How much is trained"),
    ("batch", "Sequences per optimiser step, ramped up linearly in tokens"),
    ("lr", "The learning rate: a warm-up in steps, then phases in tokens"),
    ("lr.phases[]", "One phase, from the end of the one before; the last value holds after the last phase"),
    ("optim", "AdamW"),
    ("loss", "The terms beside cross-entropy, and the routing bias"),
    ("loss.mtp_lambda[]", "One phase of the MTP weight; the last value holds to the end"),
    ("loss.bias_update_speed[]", "One phase of the bias update speed; the last value holds to the end"),
    ("recompute", "Activations computed again in backward instead of kept; changes memory and time, not results"),
    ("validation", "Loss on held-out documents"),
    ("samples", "Text generated along the way"),
    ("checkpoint", "Saving"),
    ("guard", "Stopping a run that goes wrong"),
    ("log", "Progress"),
];

const fn key(path: &'static str, kind: Kind, if_absent: IfAbsent, doc: &'static str) -> Key {
    Key { path, kind, if_absent, doc }
}

use self::IfAbsent::{Derived, Optional, Required, Value};
use self::Kind::{Bool, Float, FloatOrInf, Free, Int, OneOf, Path, Paths, Str, Strs, Tables};

const UNTIL_TOKENS: &str = "Tokens consumed at which the phase ends; either this or `until_fraction`";
const UNTIL_FRACTION: &str = "The same as a fraction of `train.total_tokens`";

pub(super) const KEYS: &[Key] = &[
    key("seed", Int, Value("0"), "Seed of initialisation, data order and sampling"),
    key("threads", Int, Value("0"), "Threads to compute with; 0 means all cores; results do not depend on it"),
    key("out", Path, Required, "Directory of the run"),
    key("model.preset", Str, Optional, "Name of a preset; either this or `model.config`"),
    key("model.config", Path, Optional, "Path of a `config.json`; either this or `model.preset`"),
    key(
        "model.init_std",
        Float,
        Derived("0.006 * sqrt(7168 / hidden_size)"),
        "Standard deviation of the initial weight matrices; norms start at 1",
    ),
    key(
        "model.set",
        Free,
        Value("{}"),
        "Keys of `config.json` to change, under their Hugging Face names; the string \"null\" stands for null",
    ),
    key("tokenizer.path", Path, Optional, "A `tokenizer.json` or a directory that has one"),
    key("tokenizer.train_vocab_size", Int, Optional, "Train a byte-level BPE of this size on the run's own data"),
    key("data.seq_len", Int, Required, "Tokens per training row"),
    key(
        "data.packing",
        OneOf(&["concat", "bestfit"]),
        Value("\"concat\""),
        "`concat` joins documents and cuts at row ends, `bestfit` fills rows with the documents that fit best",
    ),
    key("data.held_out", Float, Value("0.01"), "Fraction of documents, chosen by hash, kept for validation"),
    key(
        "data.boundary_split_rate",
        Float,
        Value("0.0"),
        "Probability with which a token of punctuation and line breaks is split in two, in training documents",
    ),
    key("data.cache", Path, Derived("out + \"/data\""), "Directory of the token shards"),
    key("data.sources", Tables, Required, "The sources, at least one"),
    key("data.sources[].name", Str, Required, "Name in logs and metrics"),
    key("data.sources[].paths", Paths, Required, "Files, directories and globs"),
    key(
        "data.sources[].role",
        OneOf(&["split", "train", "validation"]),
        Value("\"split\""),
        "`split` holds out `data.held_out` of the documents, `train` none, `validation` all",
    ),
    key(
        "data.sources[].weight",
        Float,
        Derived("0.0 for the role \"validation\", else 1.0"),
        "Share of the training tokens, relative to the other sources",
    ),
    key("data.sources[].text_key", Str, Value("\"text\""), "Key of the text in JSONL files"),
    key(
        "data.sources[].cut_bytes",
        Int,
        Value("0"),
        "Cut text files into documents of at most this many bytes, at line ends where there are any, so that one large \
         file has documents to hold out; 0 leaves files whole; lines of JSONL are never cut",
    ),
    key(
        "data.sources[].control_tokens",
        Bool,
        Value("false"),
        "Turn the spelling of control tokens (`<｜User｜>`) into the tokens, for conversations rendered beforehand from a \
         source you trust; otherwise it is ordinary text",
    ),
    key(
        "data.sources[].fim_rate",
        Float,
        Value("0.0"),
        "Fraction of training documents rearranged for fill-in-the-middle",
    ),
    key("train.total_tokens", Int, Required, "Tokens to train on"),
    key("train.micro_batch", Int, Value("1"), "Sequences per forward and backward pass"),
    key(
        "train.precision",
        OneOf(&["f32", "bf16"]),
        Value("\"f32\""),
        "What the operands of products are rounded to; sums, weights and everything else are f32",
    ),
    key("batch.start", Int, Derived("batch.end"), "Sequences per step at the beginning"),
    key("batch.end", Int, Required, "Sequences per step after the ramp"),
    key("batch.ramp_tokens", Int, Value("0"), "Tokens over which the batch grows from `start` to `end`"),
    key("lr.peak", Float, Required, "Learning rate after the warm-up"),
    key("lr.warmup_steps", Int, Required, "Steps over which the rate rises linearly from 0"),
    key("lr.phases", Tables, Value("[]"), "The phases; without any the rate stays at its peak"),
    key("lr.phases[].until_tokens", Int, Optional, UNTIL_TOKENS),
    key("lr.phases[].until_fraction", Float, Optional, UNTIL_FRACTION),
    key(
        "lr.phases[].shape",
        OneOf(&["constant", "linear", "cosine"]),
        Required,
        "`constant` holds `to`; `linear` and `cosine` go from the value before to `to`",
    ),
    key("lr.phases[].to", Float, Required, "Learning rate at the end of the phase"),
    key("optim.beta1", Float, Value("0.9"), "Decay of the first moment"),
    key("optim.beta2", Float, Value("0.95"), "Decay of the second moment"),
    key("optim.eps", Float, Value("1e-8"), "Added to the root of the second moment"),
    key("optim.weight_decay", Float, Value("0.1"), "Decoupled weight decay, on matrices only"),
    key("optim.clip_norm", FloatOrInf, Value("1.0"), "Largest global gradient norm; `inf` never clips"),
    key("optim.moments", OneOf(&["f32", "bf16"]), Value("\"f32\""), "Storage of both moments"),
    key(
        "loss.mtp_lambda",
        Tables,
        Value("[{ until_fraction = 0.68, value = 0.3 }, { until_fraction = 1.0, value = 0.1 }]"),
        "Weight of the MTP loss; without effect on a model that has no MTP layer",
    ),
    key("loss.mtp_lambda[].until_tokens", Int, Optional, UNTIL_TOKENS),
    key("loss.mtp_lambda[].until_fraction", Float, Optional, UNTIL_FRACTION),
    key("loss.mtp_lambda[].value", Float, Required, "The weight in this phase"),
    key("loss.balance_alpha", Float, Value("1e-4"), "Weight of the sequence-wise balance loss"),
    key(
        "loss.bias_update_speed",
        Tables,
        Value("[{ until_fraction = 0.966, value = 0.001 }, { until_fraction = 1.0, value = 0.0 }]"),
        "Step of the routing bias towards balance, once per optimiser step",
    ),
    key("loss.bias_update_speed[].until_tokens", Int, Optional, UNTIL_TOKENS),
    key("loss.bias_update_speed[].until_fraction", Float, Optional, UNTIL_FRACTION),
    key("loss.bias_update_speed[].value", Float, Required, "The step in this phase"),
    key("recompute.rms_norm", Bool, Value("false"), "Recompute the outputs of RMSNorm"),
    key("recompute.mla_up", Bool, Value("false"), "Recompute queries, keys and values from their latents"),
    key("recompute.swiglu", Bool, Value("false"), "Recompute the outputs of SwiGLU"),
    key("validation.every_steps", Int, Value("100"), "Steps between validations; 0 never validates"),
    key("validation.sequences", Int, Value("32"), "Held-out rows per validation"),
    key("samples.every_steps", Int, Value("0"), "Steps between samples; 0 never samples"),
    key("samples.prompts", Strs, Value("[]"), "Texts to continue"),
    key("samples.max_tokens", Int, Value("64"), "Tokens per sample"),
    key("samples.temperature", Float, Value("0.8"), "Sampling temperature; 0 takes the likeliest token"),
    key("checkpoint.every_steps", Int, Value("500"), "Steps between checkpoints; the end of the run is always saved"),
    key("checkpoint.keep_last", Int, Value("2"), "Newest checkpoints that are kept"),
    key("checkpoint.keep_every_steps", Int, Optional, "Also keep checkpoints at multiples of this many steps"),
    key("checkpoint.dtype", OneOf(&["f32", "bf16"]), Value("\"f32\""), "Type of the saved model's weights"),
    key(
        "guard.spike_factor",
        FloatOrInf,
        Value("2.0"),
        "Stop when a step's loss exceeds this many times its running mean; `inf` never stops",
    ),
    key("guard.window", Int, Value("64"), "Steps in the running mean"),
    key("log.every_steps", Int, Value("10"), "Steps between lines of metrics"),
];

/// The key at a schema path.
pub(super) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// Whether `path` is a table that holds keys.
pub(super) fn is_table(path: &str) -> bool {
    SECTIONS.iter().any(|(section, _)| *section == path)
}

/// The keys directly in the table `section`.
pub(super) fn keys_of(section: &str) -> impl Iterator<Item = &'static Key> + '_ {
    KEYS.iter().filter(move |key| parent(key.path) == section)
}

/// The table a path lies in.
pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('.').map_or("", |(parent, _)| parent)
}

/// The last name of a path.
pub(super) fn name(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(_, name)| name)
}

/// `table.key`, or `key` at the top.
pub(super) fn join(table: &str, key: &str) -> String {
    if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") }
}

impl Kind {
    /// What a value of this kind is, after "must be".
    pub(super) fn describe(self) -> String {
        match self {
            Int => "a whole number from 0".into(),
            Float => "a finite number".into(),
            FloatOrInf => "a number or inf".into(),
            Bool => "true or false".into(),
            Str => "a string".into(),
            Path => "a path in quotes".into(),
            Strs => "an array of strings".into(),
            Paths => "an array of paths".into(),
            OneOf(names) => names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(" or "),
            Tables => "an array of tables".into(),
            Free => "a table".into(),
        }
    }
}
