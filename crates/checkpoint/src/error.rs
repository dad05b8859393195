use std::path::PathBuf;

use crate::dtype::Dtype;

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a checkpoint cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum Error {
    /// The operating system refused; the message names operation and path.
    #[error(transparent)]
    Io(#[from] std::io::Error),

    /// The file could be opened but not mapped.
    #[error("cannot map {} into memory", file.display())]
    Map { file: PathBuf, source: std::io::Error },

    /// No weights where a model was expected.
    #[error(
        "no weights in {}: expected model.safetensors.index.json with its shards, model.safetensors, or a single other \
         .safetensors file", dir.display()
    )]
    NoModel { dir: PathBuf },

    /// More than one reading of a directory.
    #[error(
        "cannot tell which weights of {} to load: found {}; keep one of them, or add the model.safetensors.index.json \
         that belongs to them", dir.display(), files.join(", ")
    )]
    Ambiguous { dir: PathBuf, files: Vec<String> },

    /// The file is shorter or longer than its header says.
    #[error(
        "{} is {found} bytes long, but its header describes {expected}: it was cut short or overwritten; fetch it again",
        file.display()
    )]
    FileLength { file: PathBuf, expected: u64, found: u64 },

    /// The first eight bytes of the file are no plausible header length.
    #[error(
        "{} is damaged or no safetensors file: it announces a header of {found} bytes where at most {max} can be",
        file.display()
    )]
    HeaderLength { file: PathBuf, max: u64, found: u64 },

    /// The header is no JSON, or not of the format's shape.
    #[error("the header of {} cannot be read", file.display())]
    HeaderJson { file: PathBuf, source: serde_json::Error },

    /// A type this crate has no size for.
    #[error("{} stores tensor `{tensor}` as {found}, which is not supported", file.display())]
    UnknownDtype { file: PathBuf, tensor: String, found: String },

    /// A byte range that is not what type and shape need.
    #[error(
        "{} is damaged: tensor `{tensor}` of type {dtype} and shape {shape:?} cannot lie in bytes {start} to {stop}",
        file.display()
    )]
    Size { file: PathBuf, tensor: String, dtype: Dtype, shape: Vec<u64>, start: u64, stop: u64 },

    /// A gap or an overlap.
    #[error(
        "{} is damaged: the data of tensor `{tensor}` begin at byte {found}, those before it end at byte {expected}",
        file.display()
    )]
    Offset { file: PathBuf, tensor: String, expected: u64, found: u64 },

    /// The index is no JSON, or not of the format's shape.
    #[error("the index {} cannot be read", index.display())]
    IndexJson { index: PathBuf, source: serde_json::Error },

    /// The index points outside its directory.
    #[error(
        "{} places tensor `{tensor}` in {found:?}; expected the name of a file beside the index", index.display()
    )]
    ShardName { index: PathBuf, tensor: String, found: String },

    /// A shard of the index does not exist.
    #[error("{} is missing: {} places tensor `{tensor}` there", shard.display(), index.display())]
    ShardMissing { index: PathBuf, shard: PathBuf, tensor: String },

    /// The index lists a tensor that its shard does not have.
    #[error("{} places tensor `{tensor}` in {}, which does not hold it", index.display(), shard.display())]
    NotInShard { index: PathBuf, shard: PathBuf, tensor: String },

    /// A shard has a tensor that the index does not list there.
    #[error("{} holds tensor `{tensor}`, which {} does not list there", shard.display(), index.display())]
    NotInIndex { index: PathBuf, shard: PathBuf, tensor: String },

    /// There is no tensor of that name.
    #[error("no tensor `{tensor}` in {}{}", place.display(), did_you_mean(close))]
    Missing { place: PathBuf, tensor: String, close: Vec<String> },

    /// The tensor has another shape.
    #[error("tensor `{tensor}` in {} has shape {found:?}, expected {expected:?}", file.display())]
    Shape { file: PathBuf, tensor: String, expected: Vec<usize>, found: Vec<usize> },

    /// The tensor has a type that does not serve here.
    #[error("tensor `{tensor}` in {} is stored as {found}, expected {expected}", file.display())]
    Dtype { file: PathBuf, tensor: String, expected: &'static str, found: Dtype },

    /// Codes that are not a matrix.
    #[error(
        "tensor `{tensor}` in {} is stored as {dtype} with shape {found:?}; scales are defined for matrices only",
        file.display()
    )]
    NotAMatrix { file: PathBuf, tensor: String, dtype: Dtype, found: Vec<usize> },

    /// FP8 codes mean nothing without their scales.
    #[error("tensor `{tensor}` in {} is stored as F8_E4M3, but its scales `{scale}` are nowhere", file.display())]
    MissingScale { file: PathBuf, tensor: String, scale: String },

    /// Scales beside values that need none, or others: either the values are codes or the scales are stale.
    #[error(
        "tensor `{tensor}` in {} is stored as {found}, yet there are scales `{scale}` for it, which belong to {expected}; \
         remove the scales if the values are already multiplied by them", file.display()
    )]
    StrayScale { file: PathBuf, tensor: String, found: Dtype, scale: String, expected: Dtype },

    /// Scales of two formats for one weight.
    #[error(
        "tensor `{tensor}` in {} has two sets of scales, `{}` and `{}`; keep the one that it was made with",
        file.display(), scales[0], scales[1]
    )]
    TwoScales { file: PathBuf, tensor: String, scales: [String; 2] },

    /// Scales without a weight.
    #[error("{} holds scales `{scale}`, but their weight `{weight}` is nowhere", file.display())]
    OrphanScale { file: PathBuf, scale: String, weight: String },

    /// A directory that a model would be mixed into.
    #[error("{} already holds weights; write into an empty directory", dir.display())]
    Occupied { dir: PathBuf },

    /// A path that cannot be replaced in one step.
    #[error("cannot write {}: {reason}", path.display())]
    Target { path: PathBuf, reason: &'static str },
}

fn did_you_mean(close: &[String]) -> String {
    if close.is_empty() { String::new() } else { format!("; there is `{}`", close.join("`, `")) }
}

impl Error {
    /// Whether files are there and do not hold what they should: a cut, a flipped byte, parts that contradict each other.
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::FileLength { .. }
                | Self::HeaderLength { .. }
                | Self::HeaderJson { .. }
                | Self::Size { .. }
                | Self::Offset { .. }
                | Self::IndexJson { .. }
                | Self::ShardName { .. }
                | Self::ShardMissing { .. }
                | Self::NotInShard { .. }
                | Self::NotInIndex { .. }
                | Self::Missing { .. }
                | Self::Shape { .. }
                | Self::NotAMatrix { .. }
                | Self::MissingScale { .. }
                | Self::StrayScale { .. }
                | Self::TwoScales { .. }
                | Self::OrphanScale { .. }
        )
    }
}
