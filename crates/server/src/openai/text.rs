//! Text to tokens and back: `/tokenize`, `/detokenize`, `/apply-template`.

use serde_json::{Value, json};

use crate::error::ApiError;
use crate::fields::Fields;
use crate::openai::chat::prompt_only;
use crate::openai::sampling::token;
use crate::prompt::Conversation;
use crate::served::Served;

/// Tokens of a text or of a conversation.
pub(crate) fn tokenize(served: &Served, mut fields: Fields) -> Result<Value, ApiError> {
    let tokens = if let Some(text) = fields.string("prompt")? {
        served.check_bytes(text.len(), "prompt")?;
        let special = fields.boolean("add_special_tokens")?.unwrap_or(true);
        let bos = served.tokenizer.special_tokens().bos.filter(|_| special && served.add_bos);
        let mut tokens: Vec<u32> = bos.into_iter().collect();
        tokens.extend(served.tokenizer.encode_untrusted(&text));
        tokens
    } else {
        let (messages, tools, variables) = prompt_only(&mut fields, served).map_err(|error| match error.code {
            "missing_field" if error.param.as_deref() == Some("messages") => {
                ApiError::field("missing_field", "prompt", "there is neither a prompt nor messages")
            }
            _ => error,
        })?;
        // A template prints its own BOS, and opens the model's turn.
        fields.unsupported("add_special_tokens", |value| value == false)?;
        fields.unsupported("add_generation_prompt", |value| value == true)?;
        Conversation { messages, tools: &tools, variables }.encode(served)?
    };
    let strings = fields.boolean("return_token_strs")?.unwrap_or(false);
    fields.end()?;
    let mut answer = json!({ "count": tokens.len(), "max_model_len": served.max_model_len, "tokens": tokens });
    if strings {
        let text =
            |id: &u32| String::from_utf8_lossy(served.tokenizer.token_bytes(*id).unwrap_or_default()).into_owned();
        answer["token_strs"] = tokens.iter().map(text).collect();
    }
    Ok(answer)
}

/// The text of tokens, control tokens included.
pub(crate) fn detokenize(served: &Served, mut fields: Fields) -> Result<Value, ApiError> {
    let tokens = fields.list("tokens", served.max_model_len)?;
    let tokens = fields.required("tokens", tokens)?;
    fields.end()?;
    let tokens = tokens.iter().map(|id| token(id, served, "tokens")).collect::<Result<Vec<u32>, _>>()?;
    Ok(json!({ "prompt": served.tokenizer.decode(&tokens, false) }))
}

/// What a conversation looks like to the model.
pub(crate) fn apply_template(served: &Served, mut fields: Fields) -> Result<Value, ApiError> {
    let (messages, tools, variables) = prompt_only(&mut fields, served)?;
    fields.end()?;
    Ok(json!({ "prompt": Conversation { messages, tools: &tools, variables }.render(served)? }))
}
