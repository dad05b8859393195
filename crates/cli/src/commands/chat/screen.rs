use std::io::{self, IsTerminal, Write};

use client::{Piece, Progress};

/// Where the pieces of an answer go: the answer to standard output, and what is about it to standard error.
///
/// What the model thinks stands before the answer on a terminal, dimmed, or between `<think>` and `</think>` where there are
/// no colours. Elsewhere it goes to standard error, so that standard output is the answer alone.
pub(super) struct Screen<O, E> {
    out: O,
    err: E,
    out_is_terminal: bool,
    err_is_terminal: bool,
    has_color: bool,
    at: At,
}

/// What was shown last.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Nothing,
    Progress,
    Reasoning,
    Content,
}

const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";
const CLEAR_LINE: &str = "\r\x1b[2K";

impl Screen<io::Stdout, io::Stderr> {
    pub(super) fn standard() -> Self {
        let (out, err) = (io::stdout(), io::stderr());
        Self {
            out_is_terminal: out.is_terminal(),
            err_is_terminal: err.is_terminal(),
            has_color: config::env::color_allowed(),
            out,
            err,
            at: At::Nothing,
        }
    }
}

impl<O: Write, E: Write> Screen<O, E> {
    pub(super) fn show(&mut self, piece: Piece) -> io::Result<()> {
        match piece {
            Piece::NoProgress => {
                writeln!(
                    self.err,
                    "(the server does not know return_progress: it will not say how far a prompt is read)"
                )
            }
            Piece::Progress(progress) => {
                if self.err_is_terminal && matches!(self.at, At::Nothing | At::Progress) {
                    self.at = At::Progress;
                    write!(self.err, "{CLEAR_LINE}{}", line(&progress))?;
                }
                self.err.flush()
            }
            Piece::Reasoning(text) => {
                self.go_to(At::Reasoning)?;
                let text = self.printable(text, self.thinks_aloud());
                let target: &mut dyn Write = if self.thinks_aloud() { &mut self.out } else { &mut self.err };
                target.write_all(text.as_bytes())?;
                target.flush()
            }
            Piece::Content(text) => {
                self.go_to(At::Content)?;
                self.out.write_all(self.printable(text, true).as_bytes())?;
                self.out.flush()
            }
        }
    }

    /// The answer has ended, well or not.
    pub(super) fn end(&mut self) -> io::Result<()> {
        self.go_to(At::Nothing)
    }

    /// Whether thoughts stand before the answer.
    fn thinks_aloud(&self) -> bool {
        self.out_is_terminal
    }

    /// Ends what was shown and begins what comes.
    fn go_to(&mut self, next: At) -> io::Result<()> {
        if self.at == next {
            return Ok(());
        }
        let (begin, end) = if self.has_color { (DIM, PLAIN) } else { ("<think>\n", "\n</think>") };
        match self.at {
            At::Nothing => {}
            At::Progress => {
                self.err.write_all(CLEAR_LINE.as_bytes())?;
                self.err.flush()?;
            }
            At::Reasoning if self.thinks_aloud() => write!(self.out, "{end}\n\n")?,
            At::Reasoning => writeln!(self.err)?,
            At::Content => writeln!(self.out)?,
        }
        if next == At::Reasoning && self.thinks_aloud() {
            self.out.write_all(begin.as_bytes())?;
        }
        self.at = next;
        self.out.flush()
    }

    /// Text as it may be shown: on a terminal without the characters that would command it, which a server has no business
    /// to send.
    fn printable(&self, text: &str, goes_out: bool) -> String {
        let is_terminal = if goes_out { self.out_is_terminal } else { self.err_is_terminal };
        let is_command = |c: char| c.is_control() && c != '\n' && c != '\t';
        if is_terminal { text.replace(is_command, "\u{fffd}") } else { text.to_owned() }
    }
}

/// How far a prompt is read, and how long it will take.
fn line(progress: &Progress) -> String {
    let Progress { total, cache, processed, time_ms } = *progress;
    let share = if total > 0 { 100.0 * processed as f64 / total as f64 } else { 0.0 };
    let text = format!("reading the prompt: {processed} of {total} tokens ({share:.0} %)");
    // Known tokens cost nothing.
    let speed = processed.saturating_sub(cache) as f64 / time_ms * 1000.0;
    if !speed.is_finite() || speed <= 0.0 {
        return text;
    }
    let left = total.saturating_sub(processed) as f64 / speed;
    format!("{text}, {speed:.0} a second, {left:.0} s left")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a whole answer prints to standard output and standard error.
    fn shown(out_is_terminal: bool, err_is_terminal: bool, has_color: bool) -> (String, String) {
        let (out, err) = (Vec::new(), Vec::new());
        let mut screen = Screen { out, err, out_is_terminal, err_is_terminal, has_color, at: At::Nothing };
        let progress = |processed| Progress { total: 100, cache: 20, processed, time_ms: 500.0 };
        let pieces = [
            Piece::Progress(progress(20)),
            Piece::Progress(progress(60)),
            Piece::Reasoning("a"),
            Piece::Reasoning("b"),
            Piece::Content("c\x1b[31m"),
            Piece::Content("d"),
        ];
        for piece in pieces {
            screen.show(piece).expect("a vector takes everything");
        }
        screen.end().expect("a vector takes everything");
        [screen.out, screen.err].map(|bytes| String::from_utf8(bytes).expect("text")).into()
    }

    #[test]
    fn a_terminal_sees_thoughts_dimmed_and_progress() {
        let (out, err) = shown(true, true, true);
        assert_eq!(out, "\x1b[2mab\x1b[0m\n\nc\u{fffd}[31md\n");
        let first = "reading the prompt: 20 of 100 tokens (20 %)";
        let second = "reading the prompt: 60 of 100 tokens (60 %), 80 a second, 0 s left";
        assert_eq!(err, format!("\r\x1b[2K{first}\r\x1b[2K{second}\r\x1b[2K"));
    }

    #[test]
    fn without_colours_thoughts_are_marked() {
        let (out, _) = shown(true, true, false);
        assert_eq!(out, "<think>\nab\n</think>\n\nc\u{fffd}[31md\n");
    }

    #[test]
    fn a_pipe_gets_the_answer_alone() {
        assert_eq!(shown(false, false, true), ("c\x1b[31md\n".to_owned(), "ab\n".to_owned()));
    }
}
