//! Text inside the page.

use std::fmt::{self, Display, Formatter, Write as _};

use crate::report::units::printable;

/// Text that stands in the page as itself, in an element or in a quoted attribute, whatever it contains.
pub(super) struct Text<T>(pub(super) T);

impl<T: AsRef<str>> Display for Text<T> {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        for c in printable(self.0.as_ref()).chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_is_markup() {
        let text = "<script>alert('1' & \"2\")</script>\u{0}\u{1b}";
        let escaped = "&lt;script&gt;alert(&#39;1&#39; &amp; &quot;2&quot;)&lt;/script&gt;\u{fffd}\u{fffd}";
        assert_eq!(Text(text).to_string(), escaped);
    }
}
