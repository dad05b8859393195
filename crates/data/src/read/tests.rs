use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use tempfile::{TempDir, tempdir};

use super::*;
use crate::corpus::Format;

const LINES: &str = "{\"text\":\"one\\n\",\"n\":1}\r\n\n{\"n\":2,\"text\":\"two é \\ud83d\\ude00\"}\n{\"text\":\"\"}\n{\"text\":\"four\"}";

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zst(bytes: &[u8]) -> Vec<u8> {
    compress_to_vec(bytes, CompressionLevel::Fastest)
}

fn dir_with(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempdir().unwrap();
    for (name, bytes) in files {
        let path = dir.path().join(name);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, bytes).unwrap();
    }
    dir
}

fn source(dir: &Path, paths: &[&str]) -> Source {
    let paths: Vec<_> = paths.iter().map(|path| dir.join(path).to_str().unwrap().to_owned()).collect();
    Source::new("test", &paths.iter().map(String::as_str).collect::<Vec<_>>())
}

fn documents(source: &Source) -> Result<Vec<Document>> {
    Documents::new(source, list(source)?).collect()
}

fn texts(source: &Source) -> Vec<String> {
    documents(source).unwrap().into_iter().map(|document| document.text).collect()
}

/// The documents of one file of this name and content.
fn read(name: &str, bytes: &[u8]) -> Result<Vec<Document>> {
    let dir = dir_with(&[(name, bytes)]);
    documents(&source(dir.path(), &[name]))
}

#[test]
fn a_text_file_is_a_document() {
    let dir = dir_with(&[("a.txt", b"\xef\xbb\xbfone\n\ntwo\n"), ("empty.txt", b""), ("b.md", b"three")]);
    assert_eq!(texts(&source(dir.path(), &["."])), ["one\n\ntwo\n", "three"]);
}

#[test]
fn a_line_is_a_document() {
    let texts: Vec<_> = read("a.jsonl", LINES.as_bytes()).unwrap().into_iter().map(|document| document.text).collect();
    assert_eq!(texts, ["one\n", "two é 😀", "four"]);
}

#[test]
fn compression_changes_nothing() {
    let plain = dir_with(&[("a.jsonl", LINES.as_bytes())]);
    let plain = texts(&source(plain.path(), &["a.jsonl"]));
    let (head, tail) = LINES.as_bytes().split_at(40);
    let skippable = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3], &zst(LINES.as_bytes())[..]].concat();
    let files: [(&str, Vec<u8>); 6] = [
        ("a.jsonl.gz", gz(LINES.as_bytes())),
        ("members.jsonl.gz", [gz(head), gz(tail)].concat()),
        ("a.jsonl.zst", zst(LINES.as_bytes())),
        ("frames.jsonl.zst", [zst(head), zst(tail)].concat()),
        ("skippable.jsonl.zst", skippable),
        ("UPPER.JSONL.GZ", gz(LINES.as_bytes())),
    ];
    for (name, bytes) in &files {
        let texts: Vec<_> = read(name, bytes).unwrap().into_iter().map(|document| document.text).collect();
        assert_eq!(texts, plain, "{name}");
    }
    assert_eq!(read("a.txt.zst", &zst(b"text")).unwrap()[0].text, "text");
}

#[test]
fn a_long_compressed_file_streams() {
    let lines: Vec<String> = (0..200_000).map(|i| format!("{{\"text\":\"line {i}\"}}\n")).collect();
    let lines = lines.concat();
    for (name, bytes) in [("a.jsonl.gz", gz(lines.as_bytes())), ("a.jsonl.zst", zst(lines.as_bytes()))] {
        let documents = read(name, &bytes).unwrap();
        assert!(documents.len() == 200_000 && documents[123_456].text == "line 123456", "{name}");
    }
}

#[test]
fn damaged_compression_never_gives_other_text() {
    for (name, bytes) in [("a.jsonl.gz", gz(LINES.as_bytes())), ("a.jsonl.zst", zst(LINES.as_bytes()))] {
        let dir = dir_with(&[(name, &bytes)]);
        let (source, path) = (source(dir.path(), &[name]), dir.path().join(name));
        let whole = documents(&source).unwrap();
        for cut in 0..bytes.len() {
            fs_err::write(&path, &bytes[..cut]).unwrap();
            assert!(matches!(documents(&source), Err(Error::Read { .. })), "{name} cut at {cut}");
        }
        for i in 0..bytes.len() {
            for flip in [1, 0x80] {
                let mut bytes = bytes.clone();
                bytes[i] ^= flip;
                fs_err::write(&path, &bytes).unwrap();
                // Bytes like the date in the header of gzip say nothing about the text.
                assert!(documents(&source).map_or(true, |found| found == whole), "{name} flipped at {i}");
            }
        }
    }
}

#[test]
fn bad_lines_are_named() {
    let line = |text: &str| read("a.jsonl", format!("{{\"text\":\"fine\"}}\n\n{text}\n").as_bytes());
    for bad in [
        "{\"text\":",
        "[1]",
        "\"text\"",
        "{\"text\":3}",
        "{\"text\":null}",
        "{\"text\":\"a\"} {}",
        "{\"text\":\"\\ud800\"}",
        "{\"text\":\"a\",\"text\":\"b\"}",
    ] {
        let error = line(bad).unwrap_err();
        assert!(matches!(error, Error::Json { line: 3, .. }), "{bad}: {error}");
        assert!(error.to_string().contains("a.jsonl:3"), "{error}");
    }
    match line("{\"body\":\"a\",\"title\":\"b\"}").unwrap_err() {
        Error::MissingKey { line, text_key, found, .. } => {
            assert_eq!((line, text_key.as_str(), found), (3, "text", vec!["body".to_owned(), "title".to_owned()]));
        }
        error => panic!("{error}"),
    }
}

#[test]
fn the_key_can_be_chosen() {
    let dir = dir_with(&[("a.jsonl", b"{\"text\":\"no\",\"body\":\"yes\"}")]);
    let source = Source { text_key: "body".to_owned(), ..source(dir.path(), &["a.jsonl"]) };
    assert_eq!(texts(&source), ["yes"]);
}

#[test]
fn bytes_that_are_not_utf8_are_located() {
    let offset = |name: &str, bytes: &[u8]| match read(name, bytes).unwrap_err() {
        Error::Utf8 { offset, .. } => offset,
        error => panic!("{error}"),
    };
    assert_eq!(offset("a.txt", b"abc\xff"), 3);
    assert_eq!(offset("a.txt", b"\xc3"), 0);
    assert_eq!(offset("a.jsonl", b"{\"text\":\"a\"}\n{\"text\":\"\xff\"}"), 22);
    assert_eq!(offset("a.jsonl.gz", &gz(b"{\"text\":\"a\"}\n{\"text\":\"\xff\"}")), 22);
}

#[test]
fn the_first_error_ends_the_stream() {
    let dir = dir_with(&[("a.jsonl", b"{}\n{\"text\":\"a\"}"), ("b.jsonl", b"{\"text\":\"b\"}")]);
    let source = source(dir.path(), &["."]);
    let mut documents = Documents::new(&source, list(&source).unwrap());
    assert!(documents.next().unwrap().is_err() && documents.next().is_none());
}

#[test]
fn memory_is_bounded_by_the_longest_document() {
    let dir = dir_with(&[("a.jsonl", b"{\"text\":\"a\"}\n{\"text\":\"0123456789\"}\n"), ("a.txt", &[b'a'; 21])]);
    for (name, at) in [("a.jsonl", 13), ("a.txt", 0)] {
        let source = source(dir.path(), &[name]);
        let mut documents = Documents::new(&source, list(&source).unwrap());
        documents.max_bytes = 20;
        match documents.find_map(Result::err) {
            Some(Error::DocumentTooLong { offset, limit: 20, .. }) => assert_eq!(offset, at),
            other => panic!("{other:?}"),
        }
    }
}

/// The documents of a text file cut at `limit`.
fn pieces(bytes: &[u8], limit: u64) -> Result<Vec<Document>> {
    let dir = dir_with(&[("a.txt", bytes)]);
    documents(&Source { cut_bytes: limit, ..source(dir.path(), &["a.txt"]) })
}

proptest! {
    #[test]
    fn pieces_make_up_the_file_and_end_at_the_last_line_end_or_character(
        text in "([a-z ]|\r?\n|[é深😀]){0,200}", limit in 1_u64..60,
    ) {
        let pieces: Vec<String> = pieces(text.as_bytes(), limit).unwrap().into_iter().map(|piece| piece.text).collect();
        prop_assert_eq!(pieces.concat(), text.as_str());
        let mut rest = text.as_str();
        for piece in &pieces {
            let ends = rest.char_indices().map(|(start, c)| start + c.len_utf8());
            let longest = ends.take_while(|end| *end as u64 <= limit).last();
            let expected = match longest {
                Some(end) if end == rest.len() => end,
                Some(end) => rest[..end].rfind('\n').map_or(end, |line_end| line_end + 1),
                // One character is longer than the limit.
                None => rest.chars().next().unwrap().len_utf8(),
            };
            prop_assert_eq!(piece.len(), expected);
            rest = &rest[piece.len()..];
        }
    }

    #[test]
    fn pieces_of_bytes_that_are_not_utf8_show_the_same_error(
        start in "[a\né深😀]{0,12}", end in proptest::collection::vec(any::<u8>(), 0..6), limit in 1_u64..12,
    ) {
        let bytes = [start.as_bytes(), &end].concat();
        match (pieces(&bytes, limit), std::str::from_utf8(&bytes)) {
            (Ok(pieces), Ok(_)) => {
                prop_assert_eq!(pieces.iter().map(|piece| piece.text.len()).sum::<usize>(), bytes.len());
            }
            (Err(Error::Utf8 { offset, .. }), Err(error)) => prop_assert_eq!(offset, error.valid_up_to() as u64),
            (found, expected) => prop_assert!(false, "{:?}, expected {:?}", found, expected),
        }
    }
}

#[test]
fn pieces_keep_their_identity_and_lines_stay_whole() {
    let text = b"\xef\xbb\xbfone\ntwo\nthree\nfour\n";
    let files: &[(&str, &[u8])] =
        &[("a.txt", text), ("b.jsonl", b"{\"text\":\"a long line stays whole\"}"), ("c.txt.zst", &zst(text))];
    let dir = dir_with(files);
    let source = Source { cut_bytes: 8, ..source(dir.path(), &["."]) };
    let documents = documents(&source).unwrap();
    let texts: Vec<_> = documents.iter().map(|document| document.text.as_str()).collect();
    let cut = ["one\n", "two\n", "three\n", "four\n"];
    assert_eq!(texts, [&cut[..], &["a long line stays whole"], &cut[..]].concat());
    let expected: Vec<_> = (0..4).map(|index| document_id("test", 0, "a.txt", index)).collect();
    assert_eq!(documents[..4].iter().map(|document| document.id).collect::<Vec<_>>(), expected);

    let path = dir.path().join("b.jsonl").to_str().unwrap().to_owned();
    let only_lines = Source { paths: vec![path], ..source };
    assert!(matches!(list(&only_lines), Err(Error::Setting { key: "cut_bytes", .. })));
}

#[test]
fn a_long_file_is_cut_as_it_streams() {
    let line = "A line of the book.\n";
    let dir = dir_with(&[("a.txt.gz", &gz(line.repeat(50_000).as_bytes()))]);
    let source = Source { cut_bytes: 1000, ..source(dir.path(), &["a.txt.gz"]) };
    let mut documents = Documents::new(&source, list(&source).unwrap());
    // The file is far longer than a document may be; its pieces are not.
    documents.max_bytes = 2000;
    let mut bytes = 0;
    while let Some(document) = documents.next() {
        bytes += document.unwrap().text.len();
        assert!(documents.open.as_ref().unwrap().ahead.len() <= 1000);
    }
    assert_eq!(bytes, line.len() * 50_000);
}

#[test]
fn directories_and_globs_are_sorted() {
    let dir = dir_with(&[
        ("b/z.txt", b"z"),
        ("b/a.txt", b"a"),
        ("a/x.txt", b"x"),
        ("a/deep/y.txt", b"y"),
        (".git/config", b"hidden"),
        ("a/.hidden.txt", b"hidden"),
        ("odd[1].txt", b"odd"),
    ]);
    let read = |paths: &[&str]| texts(&source(dir.path(), paths));
    assert_eq!(read(&["."]), ["y", "x", "a", "z", "odd"]);
    assert_eq!(read(&["b", "a"]), ["a", "z", "y", "x"]);
    assert_eq!(read(&["*/*.txt"]), ["x", "a", "z"]);
    assert_eq!(read(&["**/*.txt"]), ["y", "x", "a", "z", "odd"]);
    assert_eq!(read(&["[ab]"]), ["y", "x", "a", "z"]);
    assert_eq!(read(&["odd[1].txt"]), ["odd"]);
    assert_eq!(read(&["b/a.txt"]), ["a"]);
}

#[test]
fn paths_that_cannot_be_meant_are_refused() {
    let dir = dir_with(&[("a.txt", b"a"), ("b.json", b"{}"), ("empty/.keep", b"")]);
    let refused = |paths: &[&str]| list(&source(dir.path(), paths)).unwrap_err();
    for missing in ["no.txt", "*.rs", "empty"] {
        assert!(matches!(refused(&["a.txt", missing]), Error::NoFiles { .. }), "{missing}");
    }
    assert!(matches!(refused(&["a.txt", "*.txt"]), Error::FileTwice { .. }));
    assert!(matches!(refused(&["b.json"]), Error::AmbiguousFormat { .. }));
    assert!(matches!(refused(&["***"]), Error::Setting { key: "paths", .. }));
    let source = Source { format: Format::Text, ..source(dir.path(), &["b.json"]) };
    assert_eq!(texts(&source), ["{}"]);
}

#[test]
fn identities_are_stable_and_distinct() {
    let files: &[(&str, &[u8])] =
        &[("x/a.jsonl", b"{\"text\":\"same\"}\n{\"text\":\"same\"}"), ("y/a.jsonl", b"{\"text\":\"same\"}")];
    let ids = |dir: &Path| -> Vec<u64> {
        documents(&source(dir, &["x", "y"])).unwrap().iter().map(|document| document.id).collect()
    };
    let (here, moved) = (dir_with(files), dir_with(files));
    let ids_here = ids(here.path());
    assert_eq!(ids_here, ids(moved.path()));
    assert!(ids_here[0] != ids_here[1] && ids_here[0] != ids_here[2] && ids_here[1] != ids_here[2]);
    // A change of this value tokenises every corpus anew with other random choices.
    assert_eq!(document_id("web", 0, "a/b.jsonl.gz", 3), 2_928_274_112_045_797_289);
}

#[test]
fn a_file_that_grows_meanwhile_is_refused() {
    let dir = dir_with(&[("a.jsonl", b"{\"text\":\"a\"}\n")]);
    let source = source(dir.path(), &["a.jsonl"]);
    let files = list(&source).unwrap();
    fs_err::write(dir.path().join("a.jsonl"), b"{\"text\":\"a\"}\n{\"text\":\"b\"}\n").unwrap();
    let error = Documents::new(&source, files).find_map(Result::err);
    assert!(matches!(error, Some(Error::FileChanged { expected: 13, found: 26, .. })), "{error:?}");
}

#[test]
fn hashes_are_of_the_file_as_stored() {
    let dir = dir_with(&[("a.jsonl.zst", &zst(LINES.as_bytes())), ("b.txt", b"b")]);
    let source = source(dir.path(), &["."]);
    let files = list(&source).unwrap();
    let mut documents = Documents::new(&source, files.clone());
    assert_eq!(documents.by_ref().flatten().count(), 4);
    let expected: Vec<_> = files.iter().map(|file| content_hash(&file.path).unwrap()).collect();
    assert_eq!(documents.digests(), expected);
    assert_eq!(documents.bytes_read(), files.iter().map(|file| file.bytes).sum::<u64>());
}
