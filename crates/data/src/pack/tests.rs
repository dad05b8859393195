use proptest::prelude::*;
use tempfile::tempdir;

use super::*;
use crate::dataset::Split;
use crate::testing::{EOS, corpus, dataset};

/// Best fit decreasing as it is described, over lists.
fn reference(start: u64, lengths: &[u32], seq_len: u64) -> Vec<Vec<(u64, u64)>> {
    let mut pieces = Vec::new();
    let mut document = start;
    for &length in lengths {
        let mut first = document;
        let end = document + u64::from(length);
        while first + 1 < end {
            pieces.push((first, end.min(first + seq_len + 1)));
            first += seq_len;
        }
        document = end;
    }
    pieces.sort_by_key(|(start, end)| std::cmp::Reverse(end - start));
    let mut rows: Vec<Vec<(u64, u64)>> = Vec::new();
    for piece in pieces {
        let room = |row: &[(u64, u64)]| seq_len + 1 - row.iter().map(|(start, end)| end - start).sum::<u64>();
        let fits = rows.iter().enumerate().filter(|(_, row)| room(row) >= piece.1 - piece.0);
        match fits.min_by_key(|(_, row)| room(row)).map(|(i, _)| i) {
            Some(i) => rows[i].push(piece),
            None => rows.push(vec![piece]),
        }
    }
    for row in &mut rows {
        row.sort_unstable();
    }
    rows
}

proptest! {
    #[test]
    fn packing_is_best_fit_decreasing(
        lengths in prop::collection::vec(2_u32..60, 1..60),
        start in 0_u64..1 << 50,
        seq_len in 1_usize..40,
    ) {
        let rows = best_fit(start, &lengths, seq_len);
        let spans: Vec<Vec<_>> = rows
            .iter()
            .map(|row| row.iter().map(|piece| (piece.start, piece.start + u64::from(piece.len))).collect())
            .collect();
        prop_assert_eq!(&spans, &reference(start, &lengths, seq_len as u64));
        prop_assert!(spans.iter().all(|row| row.iter().map(|(a, b)| b - a).sum::<u64>() <= seq_len as u64 + 1));

        // Within its document every token but the first is predicted exactly once.
        let mut predicted: Vec<u64> = spans.iter().flatten().flat_map(|&(a, b)| a + 1..b).collect();
        predicted.sort_unstable();
        let mut expected = Vec::new();
        let mut document = start;
        for length in lengths {
            let end = document + u64::from(length);
            expected.extend(document + 1..end);
            document = end;
        }
        prop_assert_eq!(predicted, expected);
    }
}

#[test]
fn whole_documents_stay_whole() {
    // Rows of 11 tokens. The 14 of the fourth document are cut into 11 and 4, which share the token at 20.
    let piece = |start, len, continues| Piece { start, len, continues };
    let rows = best_fit(0, &[5, 2, 3, 14, 6], 10);
    let expected = [
        vec![piece(10, 11, false)],
        vec![piece(0, 5, false), piece(24, 6, false)],
        vec![piece(5, 2, false), piece(7, 3, false), piece(20, 4, true)],
    ];
    assert_eq!(rows, expected);
}

/// Inputs and labels.
type Row = (Vec<u32>, Vec<u32>);

/// The stream of a source and its rows.
fn rows(packing: Packing, seq_len: usize, shard_tokens: u64) -> (Vec<u32>, Vec<Row>) {
    let dir = tempdir().unwrap();
    let mut corpus = corpus(dir.path(), &[("web", 300, 1.0)]);
    corpus.shard_tokens = shard_tokens;
    let dataset = dataset(dir.path(), &corpus);
    let (name, stored) = dataset.sources(Split::Train).next().unwrap();
    let stream = dataset.stream(stored).unwrap();
    let mut tokens = vec![0; stream.tokens() as usize];
    stream.read(0, &mut tokens).unwrap();
    let rows = Rows::new(stream, packing, seq_len, EOS, name).unwrap();
    (tokens, (0..rows.count()).map(|row| rows.row(row).unwrap()).collect())
}

#[test]
fn concatenated_rows_predict_every_token_once() {
    // Small shards make rows cross their boundaries.
    for (seq_len, shard_tokens) in [(1, 1000), (16, 500), (100, 300), (1000, u64::MAX)] {
        let (stream, rows) = rows(Packing::Concat, seq_len, shard_tokens);
        assert_eq!(rows.len(), (stream.len() - 1) / seq_len);
        let inputs: Vec<u32> = rows.iter().flat_map(|(tokens, _)| tokens.clone()).collect();
        let labels: Vec<u32> = rows.iter().flat_map(|(_, labels)| labels.clone()).collect();
        assert_eq!(inputs, stream[..inputs.len()]);
        assert_eq!(labels, stream[1..=inputs.len()]);
    }
}

#[test]
fn packed_rows_hold_documents_and_padding_is_not_scored() {
    for (seq_len, shard_tokens) in [(1, 1000), (16, 500), (64, 1000), (1000, u64::MAX)] {
        let (stream, rows) = rows(Packing::BestFit, seq_len, shard_tokens);
        let mut documents: Vec<&[u32]> = stream.split_inclusive(|&token| token == EOS).collect();
        for (tokens, labels) in &rows {
            assert_eq!((tokens.len(), labels.len()), (seq_len, seq_len));
            let scored = labels.iter().rposition(|&label| label != IGNORE).unwrap() + 1;
            assert!(
                tokens[scored + usize::from(scored < seq_len)..].iter().all(|&token| token == EOS),
                "padding is EOS"
            );
            for i in 0..scored {
                let next = if i + 1 < seq_len { tokens[i + 1] } else { labels[i] };
                // Only the first token of a continued document is shown without being scored.
                assert!(labels[i] == next || labels[i] == IGNORE && tokens[i] == EOS, "position {i}");
            }
            let row: Vec<u32> = [&tokens[..1], &labels[..scored]].concat();
            for document in row.split_inclusive(|&token| token == EOS) {
                if let Some(i) = documents.iter().position(|whole| *whole == document) {
                    documents.swap_remove(i);
                }
            }
        }
        assert!(documents.iter().all(|left| left.len() > seq_len + 1), "documents that fit are in a row, whole");
    }
}

#[test]
fn packing_leaves_little_room() {
    let (stream, rows) = rows(Packing::BestFit, 1000, u64::MAX);
    let full = rows.len() * 1001;
    assert!((full - stream.len()) * 20 < full, "{} rows for {} tokens", rows.len(), stream.len());
}
