/// Text up to a stop string, with the characters held back that may turn out to begin one.
#[derive(Clone, Debug)]
pub struct StopText {
    stops: Vec<String>,
    /// What is not certain yet.
    held: String,
    /// Which of the strings has come.
    stopped_by: Option<usize>,
}

impl StopText {
    /// A text that ends before the first of `stops`; empty ones are none.
    pub fn new(stops: &[String]) -> Self {
        Self { stops: stops.to_vec(), held: String::new(), stopped_by: None }
    }

    /// Adds `piece`; gives the text that is now certain.
    pub fn push(&mut self, piece: &str) -> String {
        if self.stopped_by.is_some() {
            return String::new();
        }
        self.held.push_str(piece);
        let found = (0..).zip(&self.stops).filter(|(_, stop)| !stop.is_empty());
        if let Some((at, i)) = found.filter_map(|(i, stop)| Some((self.held.find(stop.as_str())?, i))).min() {
            self.held.truncate(at);
            self.stopped_by = Some(i);
            return self.rest();
        }
        let rest = self.held.split_off(self.held.len() - self.beginning());
        std::mem::replace(&mut self.held, rest)
    }

    /// What was held back.
    pub fn rest(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Whether a stop string has come.
    pub fn has_stopped(&self) -> bool {
        self.stopped_by.is_some()
    }

    /// Which of the stop strings it was: the first one in the text, and of several there the first one in the list.
    pub fn stopped_by(&self) -> Option<usize> {
        self.stopped_by
    }

    /// The bytes at the end of the text that begin a stop string.
    fn beginning(&self) -> usize {
        let begins = |stop: &String| {
            (1..stop.len()).rev().filter(|&n| stop.is_char_boundary(n)).find(|&n| self.held.ends_with(&stop[..n]))
        };
        self.stops.iter().filter_map(begins).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_string_is_never_shown_however_it_is_cut() {
        let stops = ["END".to_owned(), "\n\n".to_owned(), String::new()];
        for (text, want) in
            [("one two ENDthree", "one two "), ("a\n\nb", "a"), ("ENERGY", "ENERGY"), ("x EN", "x EN"), ("EENDD", "E")]
        {
            for cut in 1..=text.len() {
                let mut stream = StopText::new(&stops);
                let mut shown = String::new();
                for piece in text.as_bytes().chunks(cut) {
                    shown += &stream.push(std::str::from_utf8(piece).unwrap());
                }
                assert_eq!(stream.has_stopped(), shown.len() < text.len() && text != "x EN", "{text:?}");
                shown += &stream.rest();
                assert_eq!(shown, want, "{text:?} in pieces of {cut}");
            }
        }
    }
}
