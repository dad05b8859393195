use std::io::{self, Write};

use super::sample::{Run, Sample};

const COLUMNS: &str = "index,intended_s,started_s,first_s,ended_s,ttft_s,tpot_s,e2e_s,longest_gap_s,prompt_tokens,\
                       cached_tokens,output_tokens,chunks,finish_reason,error_kind,error";

/// One row for each request, in the order in which they were meant to be sent. What a request has not is empty.
///
/// # Errors
/// `out` fails.
pub fn write(out: &mut dyn Write, run: &Run) -> io::Result<()> {
    writeln!(out, "{COLUMNS}")?;
    run.samples.iter().try_for_each(|sample| writeln!(out, "{}", row(sample)))
}

fn row(sample: &Sample) -> String {
    let time = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.6}"));
    let number = |value: Option<u64>| value.map_or_else(String::new, |value| value.to_string());
    let text = |value: Option<&str>| value.map_or_else(String::new, quoted);
    let usage = sample.usage.as_ref();
    let failure = sample.failure.as_ref();
    [
        sample.index.to_string(),
        time(Some(sample.intended)),
        time(Some(sample.started)),
        time(sample.first),
        time(Some(sample.ended)),
        time(sample.ttft()),
        time(sample.tpot()),
        time(Some(sample.e2e())),
        time(sample.longest_gap()),
        number(usage.map(|usage| usage.prompt_tokens)),
        number(usage.and_then(crate::wire::Usage::cached_tokens)),
        number(usage.map(|usage| usage.completion_tokens)),
        sample.chunks.to_string(),
        text(sample.finish_reason.as_deref()),
        text(failure.map(|failure| failure.kind.as_str())),
        text(failure.map(|failure| failure.message.as_str())),
    ]
    .join(",")
}

/// A field as RFC 4180 has it: between quotes where it must be.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Failure;
    use crate::wire::Usage;

    #[test]
    fn a_row_has_every_column() {
        let whole = Sample {
            intended: 0.25,
            started: 0.5,
            first: Some(1.0),
            last: Some(1.5),
            ended: 2.0,
            gaps: vec![0.5],
            chunks: 2,
            usage: Some(Usage { prompt_tokens: 3, completion_tokens: 2, ..Usage::default() }),
            finish_reason: Some("length".into()),
            ..Sample::default()
        };
        let failure = Some(Failure { kind: "status_503".into(), message: "busy, \"very\"".into() });
        let failed = Sample { index: 1, ended: 0.1, failure, ..Sample::default() };
        let run = Run { samples: vec![whole, failed], ..Run::default() };
        let mut out = Vec::new();
        write(&mut out, &run).expect("a vector takes everything");
        let text = String::from_utf8(out).expect("text");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0].split(',').count(), 16);
        assert_eq!(
            lines[1],
            "0,0.250000,0.500000,1.000000,2.000000,0.750000,0.500000,1.750000,0.500000,3,,2,2,length,,"
        );
        assert_eq!(lines[2], "1,0.000000,0.000000,,0.100000,,,0.100000,,,,,0,,status_503,\"busy, \"\"very\"\"\"");
    }
}
