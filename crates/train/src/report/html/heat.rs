//! The picture of the expert load: a row per MoE layer, a column per expert, and colour for the load over the layer's
//! mean.

use std::fmt::{self, Write};

use super::RunSummary;
use super::text::Text;
use crate::report::history::LoadWindow;

/// Colours are steps of the logarithm of load over mean: level 0 is up to a quarter of the mean, the middle level is
/// the mean, the last is four times the mean and more.
const LEVELS: usize = 17;

/// Writes the card.
pub(super) fn write(out: &mut String, summary: &RunSummary, load: &LoadWindow) -> fmt::Result {
    out.push_str("<figure class=\"card wide\"><figcaption><h2>Expert load</h2><span class=unit>");
    let experts = load.sum.iter().map(Vec::len).max().unwrap_or(0);
    if experts == 0 {
        out.push_str("tokens per expert</span></figcaption><p class=empty>nothing measured yet</p></figure>\n");
        return Ok(());
    }
    write!(out, "each expert's share of its layer's tokens, over the last {} steps</span>", load.len())?;
    out.push_str("<span class=ramp>idle<span>");
    for level in 0..LEVELS {
        write!(out, "<i class=\"v{level}\"></i>")?;
    }
    out.push_str("</span>4× mean</span></figcaption>");

    let layers = load.sum.len();
    write!(
        out,
        "<div class=\"plot heat\" style=\"height:{}px\"><svg viewBox=\"0 0 {experts} {layers}\" preserveAspectRatio=none \
         role=img aria-label=\"Expert load\">",
        (layers * 34).clamp(96, 640),
    )?;
    // One path per colour, and neighbours of one colour as one rectangle: small even with 58 layers of 256 experts.
    let levels = load.sum.iter().map(|layer| levels(layer)).collect::<Vec<_>>();
    for level in 0..LEVELS {
        let mut path = String::new();
        for (y, layer) in levels.iter().enumerate() {
            let mut x = 0;
            for run in layer.chunk_by(|a, b| a == b) {
                if run[0] == level {
                    write!(path, "M{x} {y}h{}v1h-{}z", run.len(), run.len())?;
                }
                x += run.len();
            }
        }
        if !path.is_empty() {
            write!(out, "<path class=\"v{level}\" d=\"{path}\"/>")?;
        }
    }
    out.push_str("</svg>");

    let row = 100.0 / layers as f64;
    let label_every = layers.div_ceil(20);
    for (index, load) in load.sum.iter().enumerate() {
        let name = summary.layer_name(index);
        let top = row * index as f64;
        if index % label_every == 0 {
            write!(out, "<span class=y style=\"top:{:.2}%\">{}</span>", top + row / 2.0, Text(&name))?;
        }
        let below = if index * 2 < layers { " class=below" } else { "" };
        write!(out, "<s{below} style=\"top:{top:.2}%;height:{row:.2}%\"><b>{}{}</b></s>", Text(&name), describe(load))?;
    }
    write!(out, "<span class=x style=\"left:0\">0</span><span class=x style=\"left:100%\">{}</span>", experts - 1)?;
    out.push_str(
        "</div><p class=note>experts from left to right; shared experts see every token and are not shown</p>",
    );
    out.push_str("</figure>\n");
    Ok(())
}

fn mean(load: &[u64]) -> f64 {
    load.iter().map(|&tokens| tokens as f64).sum::<f64>() / load.len().max(1) as f64
}

/// The colour of each expert; the middle one throughout where no token came.
fn levels(load: &[u64]) -> Vec<usize> {
    let mean = mean(load);
    let middle = (LEVELS / 2) as f64;
    let level = |&tokens: &u64| {
        let log_ratio = if mean > 0.0 { (tokens as f64 / mean).log2().clamp(-2.0, 2.0) } else { 0.0 };
        (middle + log_ratio / 2.0 * middle).round() as usize
    };
    load.iter().map(level).collect()
}

/// The extremes of a layer, as HTML that contains numbers only.
fn describe(load: &[u64]) -> String {
    let mean = mean(load);
    let most = load.iter().enumerate().max_by_key(|(_, tokens)| **tokens);
    let least = load.iter().enumerate().min_by_key(|(_, tokens)| **tokens);
    match (most, least) {
        (Some((busiest, &most)), Some((idlest, &least))) if mean > 0.0 => format!(
            "<br>busiest: expert {busiest}, {:.2}× mean<br>idlest: expert {idlest}, {:.2}× mean",
            most as f64 / mean,
            least as f64 / mean
        ),
        _ => "<br>no tokens".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_follow_the_load_over_the_mean() {
        assert_eq!(levels(&[100, 100, 100]), [8, 8, 8]);
        assert_eq!(levels(&[0, 0, 0]), [8, 8, 8]);
        assert_eq!(levels(&[0, 400, 0, 0, 0, 0, 0, 0])[..2], [0, 16]);
        assert_eq!(levels(&[50, 150, 100, 100]), [4, 10, 8, 8]);
        assert_eq!(levels(&[]), [0; 0]);
        assert_eq!(levels(&[u64::MAX, u64::MAX]), [8, 8]);
    }
}
