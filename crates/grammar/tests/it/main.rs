//! Answers of a random model that are held to grammars, and grammars that nobody should have to hold on to.

mod common;
mod hostile;
mod texts;
mod tools;
mod valid;
