//! Server-sent events, as the HTML standard defines them (section 9.2.6, "Interpreting an event stream"), less what is for
//! reconnecting: `id` and `retry` are passed over.

use std::mem;

/// The longest line, and the most data of one event, in bytes. One chunk of an answer is far below it, and a server that
/// never ends a line does not fill our memory.
pub const MAX_EVENT_BYTES: usize = 8 << 20;

/// Something that a server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its `event` field; empty without one.
    pub name: String,
    /// Its `data` lines, joined by line feeds.
    pub data: String,
}

/// A line or an event is longer than [`MAX_EVENT_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

/// Takes a stream apart as it comes, however its bytes are cut.
#[derive(Debug, Default)]
pub struct Parser {
    /// The line that has not ended yet.
    line: Vec<u8>,
    /// The last byte ended a line and was a carriage return; a line feed after it belongs to the same end.
    after_cr: bool,
    /// A line has ended: a byte order mark can no longer come.
    begun: bool,
    name: String,
    /// The data lines so far, each with a line feed behind it.
    data: String,
}

impl Parser {
    /// Takes the next bytes; the events that end within them are added to `events`.
    ///
    /// # Errors
    /// A line or an event is too long. What follows makes no sense then.
    pub fn push(&mut self, bytes: &[u8], events: &mut impl Extend<Event>) -> Result<(), TooLong> {
        if bytes.is_empty() {
            return Ok(());
        }
        let mut rest = bytes;
        if mem::take(&mut self.after_cr) {
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
        }
        while let Some(end) = rest.iter().position(|&byte| matches!(byte, b'\n' | b'\r')) {
            self.extend_line(&rest[..end])?;
            let is_cr = rest[end] == b'\r';
            rest = &rest[end + 1..];
            if is_cr {
                self.after_cr = rest.is_empty();
                rest = rest.strip_prefix(b"\n").unwrap_or(rest);
            }
            let line = mem::take(&mut self.line);
            events.extend(self.end_line(&line)?);
        }
        self.extend_line(rest)
    }

    fn extend_line(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        if self.line.len() + bytes.len() > MAX_EVENT_BYTES {
            return Err(TooLong);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    /// The event that a line ends, which only an empty one does.
    fn end_line(&mut self, line: &[u8]) -> Result<Option<Event>, TooLong> {
        let text = String::from_utf8_lossy(line);
        let text = if mem::replace(&mut self.begun, true) { &*text } else { text.trim_start_matches('\u{feff}') };
        if text.is_empty() {
            let name = mem::take(&mut self.name);
            let mut data = mem::take(&mut self.data);
            // An event without data is none.
            return Ok(data.pop().map(|_line_feed| Event { name, data }));
        }
        let (field, value) = text.split_once(':').unwrap_or((text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                if self.data.len() + value.len() >= MAX_EVENT_BYTES {
                    return Err(TooLong);
                }
                self.data.push_str(value);
                self.data.push('\n');
            }
            "event" => value.clone_into(&mut self.name),
            // A comment (an empty field name), a field for reconnecting, or one that the standard says to ignore.
            _ => {}
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use tensor::Rng;

    use super::*;

    /// Every kind of line and of line end, text of several bytes a character, and an event that never ends.
    const STREAM: &str = "\u{feff}: hello\r\n\r\ndata: {\"a\":1}\r\n\r\ndata:two\rdata: lines\r\rdata: line\r\ndata: feeds\r\n\r\nevent: error\ndata: Größe → 深海\n\n\
                          :\n\nid: 7\nretry: 10\nunknown\ndata\ndata: \ndata:  kept blank\n\nevent: nothing\n\ndata: [DONE]\n\ndata: cut";

    fn parse<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Event> {
        let (mut parser, mut events) = (Parser::default(), Vec::new());
        pieces.into_iter().for_each(|piece| parser.push(piece, &mut events).expect("short lines"));
        events
    }

    fn expected() -> Vec<Event> {
        let event = |name: &str, data: &str| Event { name: name.into(), data: data.into() };
        vec![
            event("", "{\"a\":1}"),
            event("", "two\nlines"),
            event("", "line\nfeeds"),
            event("error", "Größe → 深海"),
            event("", "\n\n kept blank"),
            event("", "[DONE]"),
        ]
    }

    #[test]
    fn events_do_not_depend_on_the_cut() {
        let bytes = STREAM.as_bytes();
        assert_eq!(parse([bytes]), expected());
        assert_eq!(parse(bytes.chunks(1)), expected());
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                assert_eq!(parse(pieces), expected(), "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn any_bytes_give_the_same_events_however_they_are_cut() {
        // The bytes that mean something come often; all others come too.
        let alphabet = b"\r\n\r\n: adtevn\xef\xbb\xbf\xff\x00";
        for seed in 0..300 {
            let mut rng = Rng::new(seed, "test sse", 0);
            let mut bytes = Vec::new();
            for _ in 0..200 {
                match rng.below(6) {
                    0 => bytes.extend_from_slice(b"data: "),
                    1 => bytes.push(rng.below(256) as u8),
                    _ => bytes.push(alphabet[rng.below(alphabet.len() as u64) as usize]),
                }
            }
            let whole = parse([bytes.as_slice()]);
            assert_eq!(parse(bytes.chunks(1)), whole, "seed {seed}");
            for cut in 0..bytes.len() {
                assert_eq!(parse([&bytes[..cut], &bytes[cut..]]), whole, "seed {seed}, cut at {cut}");
            }
        }
    }

    #[test]
    fn a_line_without_an_end_is_refused() {
        let mut parser = Parser::default();
        let piece = vec![b'x'; MAX_EVENT_BYTES / 2];
        let mut events = Vec::new();
        assert_eq!(parser.push(&piece, &mut events), Ok(()));
        assert_eq!(parser.push(&piece, &mut events), Ok(()));
        assert_eq!(parser.push(b"x", &mut events), Err(TooLong));
    }

    #[test]
    fn an_event_without_an_end_is_refused() {
        let mut parser = Parser::default();
        let line = [b"data: ".as_slice(), &vec![b'x'; MAX_EVENT_BYTES / 4], b"\n"].concat();
        let mut events = Vec::new();
        let outcomes: Vec<_> = (0..4).map(|_| parser.push(&line, &mut events)).collect();
        assert_eq!(outcomes, [Ok(()), Ok(()), Ok(()), Err(TooLong)]);
        assert!(events.is_empty());
    }
}
