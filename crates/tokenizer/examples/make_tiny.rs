//! Trains the tiny tokenizer of the tests: `cargo run -p tokenizer --example make_tiny` in this crate's folder, after a
//! change of `testdata/corpus.txt`. `testdata/make_vectors.py` then makes what Python says about it.

use std::error::Error;
use std::path::Path;

use tokenizer::{ChatFormat, TrainOptions, train, write_model_files};

fn main() -> Result<(), Box<dyn Error>> {
    let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let corpus = fs_err::read_to_string(testdata.join("corpus.txt"))?;
    let trained = train(corpus.split_inclusive("\n\n"), TrainOptions { vocab_size: 512, min_frequency: 2 })?;
    write_model_files(testdata.join("tiny"), &trained, ChatFormat::V3, 4096, true)?;
    println!("{}", trained.tokenizer.hash());
    Ok(())
}
