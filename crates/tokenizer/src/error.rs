use std::path::PathBuf;

/// Why a tokenizer could not be read, or could not do what was asked of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A file could not be read or written; the source names it.
    #[error("cannot access a tokenizer file: {0}")]
    Io(#[from] std::io::Error),

    /// A model directory without the file.
    #[error("{} has no tokenizer.json: give the path of a tokenizer.json or of a directory that holds one", .0.display())]
    Missing(PathBuf),

    /// A file was read and refused.
    #[error("cannot use {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<TokenizerError>,
    },

    /// Not JSON, or JSON of another shape.
    #[error("not a tokenizer.json with a byte-level BPE model: {0}")]
    Json(#[from] serde_json::Error),

    /// A `tokenizer_config.json` that is not JSON.
    #[error("not a tokenizer_config.json: {0}")]
    ConfigJson(serde_json::Error),

    /// A field of `tokenizer_config.json` with an unknown form.
    #[error("the field {field} is {found}, and should be {expected}")]
    Config {
        /// The field.
        field: &'static str,
        /// Its value.
        found: String,
        /// What it should be.
        expected: &'static str,
    },

    /// A setting that would change the ids and that this crate does not implement.
    #[error(
        "the tokenizer has {field} = {found}, which is not supported: \
         it must be a byte-level BPE as DeepSeek-V3's ({expected})"
    )]
    Unsupported {
        /// The JSON field.
        field: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        expected: &'static str,
    },

    /// One entry stands twice in the vocabulary.
    #[error("the vocabulary has the entry {0:?} twice")]
    DuplicateEntry(String),

    /// Two entries share an id.
    #[error("the entries {first:?} and {second:?} both have the id {id}")]
    DuplicateId {
        /// The id.
        id: u32,
        /// Its first holder.
        first: String,
        /// Its second holder.
        second: String,
    },

    /// An id beyond the number of entries, which leaves a gap before it.
    #[error("the entry {token:?} has the id {id}, but ids must be 0 to {last} without a gap, as there are {count} entries", last = count - 1)]
    IdOutOfRange {
        /// The entry.
        token: String,
        /// Its id.
        id: u32,
        /// How many entries there are.
        count: usize,
    },

    /// The model has no entries at all.
    #[error("the vocabulary is empty")]
    EmptyVocabulary,

    /// A byte that no entry stands for, so that some text could not be encoded.
    #[error("the vocabulary has no entry for the byte {0:#04x}: a byte-level BPE has one for each of the 256")]
    MissingByte(u8),

    /// An entry with characters outside GPT-2's byte alphabet.
    #[error("the vocabulary entry {token:?} (id {id}) is not written in the byte alphabet")]
    NotByteLevel {
        /// The entry.
        token: String,
        /// Its id.
        id: u32,
    },

    /// A merge of, or into, something that is not in the vocabulary.
    #[error("merge {rank} ({left:?} + {right:?}) needs {missing:?}, which is not in the vocabulary")]
    MergeOutOfVocabulary {
        /// Its position in the list.
        rank: usize,
        /// The left half.
        left: String,
        /// The right half.
        right: String,
        /// What is missing.
        missing: String,
    },

    /// One merge stands twice; its rank would depend on who reads it.
    #[error("merge {rank} ({left:?} + {right:?}) stands twice in the list")]
    DuplicateMerge {
        /// The later of the two positions.
        rank: usize,
        /// The left half.
        left: String,
        /// The right half.
        right: String,
    },

    /// Ordinary text could produce a control token.
    #[error(
        "the added token {token:?} (id {id}) is also produced by ordinary text, \
         so user input could not be kept from containing it"
    )]
    ReachableAddedToken {
        /// The token.
        token: String,
        /// Its id.
        id: u32,
    },

    /// A control token was asked for that the vocabulary lacks.
    #[error("the vocabulary has no token {0:?}")]
    NoSuchToken(&'static str),

    /// The library refused what this crate's checks let pass.
    #[error("the tokenizers library refused the file: {0}")]
    Library(String),
}
