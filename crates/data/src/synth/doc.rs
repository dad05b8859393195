use super::Item;

/// One document of a corpus.
#[derive(Clone, Debug, PartialEq)]
pub enum Doc {
    /// Plain text, ending in a line end.
    Document {
        /// The whole text.
        text: String,
    },
    /// A conversation, which the caller renders with its chat template.
    Dialogue {
        /// What the user asks and what the assistant answers, in order.
        turns: Vec<(String, String)>,
    },
}

impl Doc {
    /// Items, all of one register, as plain text.
    pub(super) fn document(items: &[Item]) -> Self {
        let separator = items[0].register.separator();
        let lines: Vec<String> = items.iter().map(Item::line).collect();
        Self::Document { text: lines.join(separator) }
    }

    /// Items as a conversation.
    pub(super) fn dialogue(items: Vec<Item>) -> Self {
        Self::Dialogue { turns: items.into_iter().map(|item| (item.question, item.answer)).collect() }
    }
}
