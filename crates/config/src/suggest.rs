//! "Did you mean": the known name nearest to a misspelt one.

/// The candidate most similar to `name`, or `None` when nothing is similar enough to be worth offering.
///
/// Ties go to the candidate that comes first, so the answer does not depend on anything but the input.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Below this similarity a suggestion misleads more often than it helps.
    const ENOUGH: f64 = 0.6;
    let name = name.to_lowercase();
    let length = name.chars().count() as f64;
    let mut best: Option<(f64, &str)> = None;
    for candidate in candidates {
        // What is much longer or shorter is not similar, and to find that out takes as long as both are, multiplied.
        let other = candidate.chars().count() as f64;
        if length.min(other) < ENOUGH * length.max(other) {
            continue;
        }
        let similarity = strsim::normalized_damerau_levenshtein(&name, &candidate.to_lowercase());
        if similarity >= ENOUGH && best.is_none_or(|(top, _)| similarity > top) {
            best = Some((similarity, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// ` (did you mean "x"?)` for an error message, or nothing.
pub(crate) fn hint(suggestion: Option<&str>) -> String {
    suggestion.map(|name| format!("; did you mean \"{name}\"?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn a_typo_finds_its_name_and_noise_finds_nothing() {
        let names = ["hidden_size", "kv_lora_rank", "vocab_size"];
        assert_eq!(nearest("hiden_size", names), Some("hidden_size"));
        assert_eq!(nearest("KV_LORA_RNAK", names), Some("kv_lora_rank"));
        assert_eq!(nearest("temperature", names), None);
        // In no time at all.
        assert_eq!(nearest(&"a".repeat(30 << 20), names), None);
    }
}
