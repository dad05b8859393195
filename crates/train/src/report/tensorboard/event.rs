//! The messages of an event file, in Protocol Buffers' wire format.
//!
//! A message is a sequence of fields, each a key, `number << 3 | wire type`, and a value: a varint (type 0), eight bytes
//! (1), a length and so many bytes (2: text, messages and packed arrays), or four bytes (5). Of TensorFlow's messages
//! these fields are written:
//!
//! ```text
//! Event          1 wall_time: f64    2 step: i64    3 file_version: text    5 summary: Summary    7 session_log: SessionLog
//! Summary        1 value: Value, repeated
//! Value          1 tag: text    2 simple_value: f32    5 histo: HistogramProto
//! HistogramProto 1 min, 2 max, 3 num, 4 sum, 5 sum_squares: f64    6 bucket_limit, 7 bucket: packed f64
//! SessionLog     1 status: varint, START = 1
//! ```

/// What an event says.
pub(super) enum What<'a> {
    /// The first event of a file.
    FileVersion(&'a str),
    /// A run starts at the event's step: what was said about this step and later ones does not hold any more.
    RunStart,
    /// Tagged numbers and distributions.
    Summary(&'a [(String, f64)], &'a [(String, Histogram)]),
}

/// A distribution of numbers.
#[derive(Debug, PartialEq)]
pub(super) struct Histogram {
    min: f64,
    max: f64,
    sum: f64,
    sum_squares: f64,
    /// Upper limits of the buckets, ascending; a number is in the first bucket whose limit it does not exceed.
    limits: Vec<f64>,
    counts: Vec<f64>,
}

impl Histogram {
    /// The distribution of `values`, none of which exceeds the last limit.
    pub(super) fn of(values: &[f64], limits: &[f64]) -> Self {
        let mut counts = vec![0.0; limits.len()];
        for value in values {
            counts[limits.partition_point(|limit| limit < value)] += 1.0;
        }
        Self {
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            sum: values.iter().sum(),
            sum_squares: values.iter().map(|value| value * value).sum(),
            limits: limits.to_vec(),
            counts,
        }
    }
}

/// An `Event` message. `wall_time` is in seconds since 1970.
pub(super) fn encode(wall_time: f64, step: u64, what: &What) -> Vec<u8> {
    let mut event = Message::default();
    event.double(1, wall_time);
    event.varint(2, step);
    match what {
        What::FileVersion(version) => event.bytes(3, version.as_bytes()),
        What::RunStart => {
            let mut start = Message::default();
            start.varint(1, 1);
            event.bytes(7, &start.0);
        }
        What::Summary(scalars, histograms) => {
            let mut summary = Message::default();
            for (tag, number) in *scalars {
                let mut value = Message::default();
                value.bytes(1, tag.as_bytes());
                value.float(2, *number as f32);
                summary.bytes(1, &value.0);
            }
            for (tag, histogram) in *histograms {
                let mut histo = Message::default();
                histo.double(1, histogram.min);
                histo.double(2, histogram.max);
                histo.double(3, histogram.counts.iter().sum());
                histo.double(4, histogram.sum);
                histo.double(5, histogram.sum_squares);
                histo.doubles(6, &histogram.limits);
                histo.doubles(7, &histogram.counts);
                let mut value = Message::default();
                value.bytes(1, tag.as_bytes());
                value.bytes(5, &histo.0);
                summary.bytes(1, &value.0);
            }
            event.bytes(5, &summary.0);
        }
    }
    event.0
}

/// A message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, field: u64, value: u64) {
        self.raw_varint(field << 3);
        self.raw_varint(value);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.raw_varint(field << 3 | 1);
        self.0.extend(value.to_le_bytes());
    }

    fn float(&mut self, field: u64, value: f32) {
        self.raw_varint(field << 3 | 5);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.raw_varint(field << 3 | 2);
        self.raw_varint(value.len() as u64);
        self.0.extend(value);
    }

    fn doubles(&mut self, field: u64, values: &[f64]) {
        self.bytes(field, &values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>());
    }

    /// Seven bits per byte, the lowest first; the high bit says that more follow.
    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::frame;
    use super::*;

    /// Written down from the definitions above, field by field. 1.5 is 0x3ff8.. as f64 and 0x3fc00000 as f32.
    #[test]
    fn a_scalar_is_these_bytes() {
        let scalars = [("train/loss".to_owned(), 1.5)];
        let event = encode(1.5, 300, &What::Summary(&scalars, &[]));
        #[rustfmt::skip]
        let expected: Vec<u8> = [
            &[0x09, 0, 0, 0, 0, 0, 0, 0xf8, 0x3f][..],  // wall_time
            &[0x10, 0xac, 0x02],                        // step, 300 = 2 * 128 + 44
            &[0x2a, 19],                                // summary
            &[0x0a, 17],                                // its one value
            &[0x0a, 10], b"train/loss",
            &[0x15, 0, 0, 0xc0, 0x3f],                  // simple_value
        ].concat();
        assert_eq!(event, expected);

        let record = frame(&event);
        assert_eq!(record[..8], [33, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(record[12..45], expected);
        // The checksums of these bytes, from a bitwise CRC-32C computed apart from this program.
        assert_eq!(record[8..12], [0x01, 0x7b, 0xec, 0xf6]);
        assert_eq!(record[45..], [0x4d, 0x61, 0x9e, 0x99]);
    }

    #[test]
    fn versions_and_starts_are_these_bytes() {
        let version = encode(0.0, 0, &What::FileVersion("brain.Event:2"));
        assert_eq!(version, [&[0x09, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0x1a, 13][..], b"brain.Event:2"].concat());
        let start = encode(0.0, 8, &What::RunStart);
        assert_eq!(start, [0x09, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 8, 0x3a, 2, 0x08, 1]);
    }

    #[test]
    fn histograms_count_up_to_and_including_the_limit() {
        let histogram = Histogram::of(&[0.0, 0.5, 1.0, 1.1, 3.0], &[0.0, 1.0, 2.0, f64::MAX]);
        assert_eq!(histogram.counts, [1.0, 2.0, 1.0, 1.0]);
        assert_eq!((histogram.min, histogram.max), (0.0, 3.0));
        assert!((histogram.sum - 5.6).abs() < 1e-12 && (histogram.sum_squares - 11.46).abs() < 1e-12);
    }
}
