/// The chat formats that DeepSeek has published for this architecture.
///
/// They differ in who prints `<｜Assistant｜>`, in what happens to stored reasoning, and in how tools are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChatFormat {
    /// DeepSeek-V3 of December 2024.
    V3,
    /// DeepSeek-V3-0324: the same text, but a user turn opens the assistant's.
    V3March,
    /// DeepSeek-R1: the generation prompt opens the reasoning; stored turns lose theirs.
    R1,
    /// DeepSeek-V3.1: `thinking` chooses whether the model reasons; tools are called without code fences.
    V31,
}

impl ChatFormat {
    /// All formats, oldest first.
    pub const ALL: [Self; 4] = [Self::V3, Self::V3March, Self::R1, Self::V31];

    /// The format's Jinja template.
    pub const fn source(self) -> &'static str {
        match self {
            Self::V3 => include_str!("templates/v3.jinja"),
            Self::V3March => include_str!("templates/v3_0324.jinja"),
            Self::R1 => include_str!("templates/r1.jinja"),
            Self::V31 => include_str!("templates/v3_1.jinja"),
        }
    }

    /// Whether tool calls name a type before the separator and hold their arguments in a code fence after it, as all
    /// formats before V3.1 have it.
    pub const fn fences_tool_calls(self) -> bool {
        !matches!(self, Self::V31)
    }
}
