//! Who gets a request.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// How much each backend is meant for requests with a key, by rendezvous hashing: the order of backends differs from key
/// to key, and when one is gone only its own keys move.
pub(crate) fn scores<'a>(names: impl Iterator<Item = &'a str>, key: u64) -> Vec<u64> {
    names.map(|name| xxh3_64_with_seed(name.as_bytes(), key)).collect()
}

/// Chooses among the backends that are `open`.
///
/// A request with scores goes to the backend with the highest, unless this has more to do than `factor` times the mean,
/// and one. Otherwise to the one with the fewest requests in flight; of several, to the one with the highest score, and
/// without scores to the one whose `turn` it is.
pub(crate) fn choose(
    in_flight: &[usize],
    open: &[bool],
    scores: Option<&[u64]>,
    turn: usize,
    factor: f64,
) -> Option<usize> {
    let n = in_flight.len();
    let candidates = || (0..n).filter(|i| open[*i]);
    if let Some(scores) = scores {
        let preferred = candidates().max_by_key(|i| scores[*i])?;
        let mean = candidates().map(|i| in_flight[i]).sum::<usize>() as f64 / candidates().count() as f64;
        if in_flight[preferred] as f64 <= factor * mean + 1.0 {
            return Some(preferred);
        }
    }
    candidates().min_by_key(|i| {
        let tie = match scores {
            Some(scores) => u64::MAX - scores[*i],
            None => ((i + n - turn % n) % n) as u64,
        };
        (in_flight[*i], tie)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 4] = ["http://a:80", "http://b:80", "http://c:80", "http://d:80"];

    #[test]
    fn the_least_loaded_gets_it_and_ties_take_turns() {
        let all = [true; 3];
        assert_eq!(choose(&[2, 1, 3], &all, None, 0, 1.25), Some(1));
        assert_eq!(choose(&[1, 1, 1], &all, None, 0, 1.25), Some(0));
        assert_eq!(choose(&[1, 1, 1], &all, None, 2, 1.25), Some(2));
        assert_eq!(choose(&[1, 1, 1], &all, None, 4, 1.25), Some(1));
        assert_eq!(choose(&[0, 1, 1], &[false, true, true], None, 0, 1.25), Some(1));
        assert_eq!(choose(&[0, 0, 0], &[false; 3], None, 0, 1.25), None);
        assert_eq!(choose(&[0, 0, 0], &[false; 3], Some(&[1, 2, 3]), 0, 1.25), None);
    }

    #[test]
    fn a_key_keeps_its_backend_until_that_has_too_much_to_do() {
        let all = [true; 4];
        let scores = [10, 40, 30, 20];
        // The mean is 0: one request may already be there.
        assert_eq!(choose(&[0, 1, 0, 0], &all, Some(&scores), 0, 1.25), Some(1));
        assert_eq!(choose(&[0, 2, 0, 0], &all, Some(&scores), 0, 1.25), Some(2), "the next of its order");
        assert_eq!(choose(&[8, 11, 8, 8], &all, Some(&scores), 0, 1.25), Some(1), "11 <= 1.25 * 8.75 + 1");
        assert_eq!(choose(&[7, 12, 6, 8], &all, Some(&scores), 0, 1.25), Some(2), "12 > 1.25 * 8.25 + 1");
        assert_eq!(choose(&[0, 0, 0, 0], &[true, false, true, true], Some(&scores), 0, 1.25), Some(2));
    }

    #[test]
    fn no_backend_gets_much_more_than_the_mean_whatever_the_keys() {
        // All requests begin alike.
        let scores = scores(NAMES.into_iter(), 7);
        let mut in_flight = [0; 4];
        for _ in 0..400 {
            let chosen = choose(&in_flight, &[true; 4], Some(&scores), 0, 1.25).expect("all are open");
            in_flight[chosen] += 1;
        }
        assert!(in_flight.iter().all(|n| *n <= 127), "1.25 * 100 + 1, and the one that is added: {in_flight:?}");
        assert!(in_flight.iter().all(|n| *n >= 80), "{in_flight:?}");
    }

    #[test]
    fn keys_spread_and_only_those_of_a_lost_backend_move() {
        let mut counts = [0; 4];
        for key in 0..4000 {
            let scores = scores(NAMES.into_iter(), key);
            let of = |open: [bool; 4]| choose(&[0; 4], &open, Some(&scores), 0, 1.25).expect("one is open");
            let home = of([true; 4]);
            counts[home] += 1;
            let without_last = of([true, true, true, false]);
            assert!(home == 3 || home == without_last, "key {key} moved from {home} to {without_last}");
        }
        assert!(counts.iter().all(|n| (850..1150).contains(n)), "{counts:?}");
    }
}
