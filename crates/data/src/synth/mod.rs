//! A corpus that the program makes itself: documents in small registers whose every answer can be checked.
//!
//! A [`Register`] is an endless supply of [`Item`]s, each a question with its one right answer. A fixed tenth of every
//! register is held out ([`Item::is_held_out`]): training documents are made of the other nine tenths alone, so an
//! evaluation on held-out items measures what was learnt, not what was remembered.
//!
//! Every register is written for the pre-tokenizer that V3 uses. It cuts numbers before anything else, so a space
//! before a digit is a token of its own and `47+85=132` is the shortest spelling of a sum; it joins a space to the
//! letters that follow, so in `k d q x` each letter is one token. Train the tokenizer on [`digits_apart`] text: no two
//! digits are then ever merged, and a sum is read digit by digit.
//!
//! Absent on purpose: tokens, files and chat templates. A [`Doc`] is text or turns; the caller renders it.

mod arithmetic;
mod copying;
mod corpus;
mod doc;
mod item;
mod programs;
mod real;
mod register;
mod reversal;
mod sorting;
mod split;
mod stories;
#[cfg(test)]
mod tests;
mod words;

pub use corpus::{Corpus, Mix};
pub use doc::Doc;
pub use item::Item;
pub use real::{digits_apart, real_documents};
pub use register::Register;
pub use split::{held_out_items, training_items};
