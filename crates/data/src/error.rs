use std::io;
use std::path::PathBuf;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why documents could not be read, tokenised, stored or drawn.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be opened, written or renamed; the message names it.
    #[error(transparent)]
    Io(#[from] io::Error),

    /// A file could not be read or decompressed.
    #[error("cannot read {path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system or the decompressor said.
        #[source]
        error: io::Error,
    },

    /// A directory could not be walked.
    #[error("cannot list the files of source {name:?}")]
    Walk {
        /// The source.
        name: String,
        /// The directory and the reason.
        #[source]
        error: walkdir::Error,
    },

    /// A setting of the corpus or of the loader that cannot be.
    #[error("{key} of {subject} is {found}: it must be {expected}")]
    Setting {
        /// The setting.
        key: &'static str,
        /// What it belongs to.
        subject: String,
        /// Its value.
        found: String,
        /// What is allowed.
        expected: String,
    },

    /// A path or a glob that matches no file.
    #[error("{path:?} of source {name:?} matches no file: give a file, a directory with files, or a glob")]
    NoFiles {
        /// The source.
        name: String,
        /// The path or glob.
        path: String,
    },

    /// Two paths of one source lead to the same file.
    #[error("source {name:?} lists {path} twice: remove one of the overlapping paths")]
    FileTwice {
        /// The source.
        name: String,
        /// The file.
        path: PathBuf,
    },

    /// A file name that is not UTF-8, and so has no place in a manifest.
    #[error("the name of {path} is not UTF-8: rename the file")]
    FileName {
        /// The file.
        path: PathBuf,
    },

    /// `.json` may be one document or one document a line.
    #[error("{path} may hold one document or one a line: set format = \"text\" or \"jsonl\" for source {name:?}")]
    AmbiguousFormat {
        /// The source.
        name: String,
        /// The file.
        path: PathBuf,
    },

    /// Bytes that are not UTF-8.
    #[error("{path} is not UTF-8 at byte {offset} of its (decompressed) text: convert the file, or leave it out")]
    Utf8 {
        /// The file.
        path: PathBuf,
        /// Position of the first wrong byte in the decompressed text.
        offset: u64,
    },

    /// A document or line beyond [`crate::read::MAX_DOCUMENT_BYTES`].
    #[error(
        "{path} has a document of more than {limit} bytes at byte {offset}: split it, or store one document a line in JSONL"
    )]
    DocumentTooLong {
        /// The file.
        path: PathBuf,
        /// Where the document begins in the decompressed text.
        offset: u64,
        /// The limit in bytes.
        limit: u64,
    },

    /// A line of JSONL that is no JSON object with a text.
    #[error("{path}:{line}: expected a JSON object whose {text_key:?} is a string: {error}")]
    Json {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The key of the text.
        text_key: String,
        /// What the parser said; its column counts within the line.
        #[source]
        error: serde_json::Error,
    },

    /// A line of JSONL without the text's key.
    #[error(
        "{path}:{line}: there is no key {text_key:?}, the keys are {found:?}: set text_key to the one with the text"
    )]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The key of the text.
        text_key: String,
        /// The keys of the object, sorted.
        found: Vec<String>,
    },

    /// A file whose size is not what it was when it was listed.
    #[error("{path} changed while it was read: it had {expected} bytes, {found} were read")]
    FileChanged {
        /// The file.
        path: PathBuf,
        /// Bytes when it was listed.
        expected: u64,
        /// Bytes read.
        found: u64,
    },

    /// A source whose files hold no text.
    #[error("source {name:?} has no document with text in its {files} files")]
    EmptySource {
        /// The source.
        name: String,
        /// How many files were read.
        files: usize,
    },

    /// A source to train on whose documents all fell on the held-out side.
    #[error(
        "all {documents} documents of source {name:?} fell into the held-out split of {held_out}, none is left to train on: \
         cut its text files with cut_bytes, store more, smaller documents, or give the source the role \"train\" and \
         validate on another"
    )]
    AllHeldOut {
        /// The source.
        name: String,
        /// How many documents it has.
        documents: u64,
        /// The fraction held out.
        held_out: f64,
    },

    /// The encoder gave an id beyond its own vocabulary.
    #[error("the tokenizer gave id {id} for document {document:016x}, beyond its vocabulary of {vocab_size}")]
    TokenOutOfRange {
        /// The document.
        document: u64,
        /// The id.
        id: u32,
        /// The vocabulary size.
        vocab_size: usize,
    },

    /// Tokens that do not stand for exactly the bytes of the text.
    #[error(
        "document {document:016x} has {text_bytes} bytes, its tokens stand for {token_bytes}: \
         the tokenizer drops or rewrites text; use a byte-level one without normalizer"
    )]
    Lossy {
        /// The document.
        document: u64,
        /// Bytes of the text.
        text_bytes: u64,
        /// Bytes of the tokens, with the spelling of control tokens where the text may spell them.
        token_bytes: u64,
    },

    /// The directory is being read or prepared, here or by another process.
    #[error("the corpus in {dir} is in use or being prepared: wait until that is over, or choose another directory")]
    Locked {
        /// The directory.
        dir: PathBuf,
    },

    /// A stored file that is not what the manifest says.
    #[error("{path} is damaged: {what} should be {expected}, found {found}; remove the directory to tokenise again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which part of it.
        what: String,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },

    /// A directory without a manifest.
    #[error("{dir} holds no tokenised corpus: manifest.json is missing")]
    NoManifest {
        /// The directory.
        dir: PathBuf,
    },

    /// A manifest that cannot be parsed.
    #[error("{path} is damaged or of another version; remove the directory to tokenise again")]
    Manifest {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        error: serde_json::Error,
    },

    /// Sources of the mixture and of the corpus do not agree.
    #[error(
        "the mixture has weights for {weighted:?}, the corpus has training documents of {stored:?}: name the same sources"
    )]
    Sources {
        /// Sources with a weight.
        weighted: Vec<String>,
        /// Sources with training documents.
        stored: Vec<String>,
    },

    /// A source too small for one row.
    #[error(
        "source {name:?} has {tokens} tokens in its {split} split, one row needs {needed}: add text or shorten seq_len"
    )]
    TooFewTokens {
        /// The source.
        name: String,
        /// The split.
        split: &'static str,
        /// Tokens there are.
        tokens: u64,
        /// Tokens of a row, `seq_len + 1`.
        needed: u64,
    },

    /// A corpus without held-out documents.
    #[error(
        "no document fell into the held-out split ({held_out} of {documents} documents): \
         raise held_out, cut text files with cut_bytes, store smaller documents, or add a source of the role \"validation\""
    )]
    NoValidation {
        /// The fraction held out.
        held_out: f64,
        /// Documents in the corpus.
        documents: u64,
    },

    /// A batch that cannot be cut into equal slices.
    #[error("a batch of {rows} sequences cannot be shared equally by {world_size} ranks")]
    UnequalRanks {
        /// Sequences in the batch.
        rows: u64,
        /// Ranks.
        world_size: u64,
    },

    /// A loader state of another run.
    #[error("cannot resume the loader: {what} was {expected} when the state was saved, now it is {found}")]
    State {
        /// The setting that differs.
        what: &'static str,
        /// In the state.
        expected: String,
        /// In the loader.
        found: String,
    },
}

impl Error {
    /// Whether stored shards are there and do not hold what they should.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Manifest { .. })
    }
}
