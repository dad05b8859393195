use model::{Cache, Model};
use tensor::{Ctx, Tensor};

use crate::draw::Drawer;
use crate::error::Error;
use crate::request::{Finish, Request, check};

/// A request under way: its cache, what it said, and the logits of its next token.
pub struct Sequence {
    request: Request,
    cache: Cache,
    logits: Vec<f32>, // [V]
    drawer: Drawer,
    generated: usize,
    finish: Option<Finish>,
}

impl Sequence {
    /// Validates a request and runs the model over its prompt.
    ///
    /// # Errors
    /// When the prompt is empty, has tokens that the model does not know or too many of them, or a sampling parameter is
    /// out of range.
    pub fn start(ctx: &Ctx, model: &Model, request: Request) -> Result<Self, Error> {
        request.validate(model)?;
        let mut cache = model.new_cache();
        let logits = model.prefill(ctx, &request.prompt, &mut cache)?;
        let drawer = Drawer::new(&request);
        let finish = (request.max_tokens == 0).then_some(Finish::Length);
        Ok(Self { cache, logits: logits.data().to_vec(), drawer, generated: 0, finish, request })
    }

    /// Goes on after an answer: appends `tokens` of the user and allows a new answer of `max_tokens` tokens.
    ///
    /// # Errors
    /// As [`Sequence::start`]; the sequence is then as it was.
    pub fn resume(&mut self, ctx: &Ctx, model: &Model, tokens: &[u32]) -> Result<(), Error> {
        if tokens.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        check(model, tokens, self.cache.len())?;
        let logits = model.prefill(ctx, tokens, &mut self.cache)?;
        self.logits.copy_from_slice(logits.data());
        self.drawer.resume(&self.request, tokens);
        self.generated = 0;
        self.finish = None;
        Ok(())
    }

    /// Draws the next token; none when the answer has ended. The model has not seen the token yet: see [`advance`].
    ///
    /// # Errors
    /// When the logits are not numbers.
    pub fn draw(&mut self, ctx: &Ctx) -> Result<Option<u32>, Error> {
        if self.finish.is_some() {
            return Ok(None);
        }
        let Some(drawn) = self.drawer.draw(ctx, &self.request, &self.logits)? else {
            self.finish = Some(Finish::Stop);
            return Ok(None);
        };
        self.generated += 1;
        Ok(Some(drawn.id))
    }

    /// Why the answer ended, if it has.
    pub fn finish(&self) -> Option<Finish> {
        self.finish
    }

    /// Ends the answer, as a stop token would.
    pub fn stop(&mut self) {
        self.finish = Some(Finish::Stop);
    }

    /// Tokens that the cache holds.
    pub fn len(&self) -> usize {
        self.cache.len()
    }

    /// Whether the cache holds none; a started sequence always does.
    pub fn is_empty(&self) -> bool {
        self.cache.is_empty()
    }
}

/// Runs the model over the token that each of `sequences` has just drawn, all together.
///
/// # Errors
/// When the weights of a model that is larger than memory cannot be read.
pub fn advance(ctx: &Ctx, model: &Model, tokens: &[u32], sequences: &mut [&mut Sequence]) -> Result<(), Error> {
    let limit = model.config.max_position_embeddings;
    let tokens: Vec<[u32; 1]> = tokens.iter().map(|&t| [t]).collect();
    let mut news: Vec<&[u32]> = Vec::with_capacity(tokens.len());
    let mut running: Vec<&mut Sequence> = Vec::with_capacity(tokens.len());
    for (sequence, token) in sequences.iter_mut().zip(&tokens) {
        // The last token of an answer still enters the cache, so that a conversation can go on after it; only a full
        // context has no place for it.
        if sequence.cache.len() >= limit {
            sequence.finish = Some(Finish::Context);
            continue;
        }
        if sequence.generated >= sequence.request.max_tokens {
            sequence.finish = Some(Finish::Length);
        }
        news.push(token);
        running.push(sequence);
    }
    if running.is_empty() {
        return Ok(());
    }
    let mut caches: Vec<&mut Cache> = running.iter_mut().map(|s| &mut s.cache).collect();
    let logits: Tensor = model.decode(ctx, &news, &mut caches)?;
    for (i, sequence) in running.into_iter().enumerate() {
        sequence.logits.copy_from_slice(logits.row(i));
    }
    Ok(())
}
