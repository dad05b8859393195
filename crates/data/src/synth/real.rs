use super::Doc;

/// Cuts a text that people wrote into documents of at most `max_bytes` bytes, each headed by `name`, so that the text
/// can be found under its name in what a model writes.
///
/// Cuts are made between paragraphs where possible, otherwise between lines, otherwise between characters. Without the
/// headings, the documents joined are the text.
///
/// # Panics
/// When `max_bytes` is below 4, the longest character.
pub fn real_documents<'a>(name: &'a str, text: &'a str, max_bytes: usize) -> impl Iterator<Item = Doc> + 'a {
    assert!(max_bytes >= 4, "a document of {max_bytes} bytes may not hold a character");
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (piece, after) = rest.split_at(cut(rest, max_bytes));
        rest = after;
        Some(Doc::Document { text: format!("{name}\n{piece}") })
    })
}

/// Where to cut a text that is not empty: the last good place within `max_bytes`.
fn cut(text: &str, max_bytes: usize) -> usize {
    if text.len() <= max_bytes {
        return text.len();
    }
    let window = &text[..text.floor_char_boundary(max_bytes)];
    let after = |separator: &str| window.rfind(separator).map(|at| at + separator.len());
    after("\n\n").or_else(|| after("\n")).unwrap_or(window.len())
}

/// The text with a space between any two digits that stand together: what to train the quickstart's tokenizer on.
///
/// A byte-level BPE that never sees two digits in one piece has no merge of digits, so it reads `47` as `4`, `7`. A
/// small model learns the ten digits and their sums; it would have to learn a hundred numbers one by one.
pub fn digits_apart(text: &str) -> String {
    let mut apart = String::with_capacity(text.len());
    let mut after_digit = false;
    for c in text.chars() {
        if after_digit && c.is_numeric() {
            apart.push(' ');
        }
        after_digit = c.is_numeric();
        apart.push(c);
    }
    apart
}
