//! `tokenizer_config.json`: what stands beside a `tokenizer.json` in a model directory.

use std::path::Path;

use serde_json::{Value, json};

use crate::{ChatFormat, Role, TokenizerError, Trained};

/// The fields of a `tokenizer_config.json` that this crate uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenizerConfig {
    /// Whether a plain completion starts with BOS. The published configuration says so.
    pub add_bos_token: Option<bool>,
    /// The text of BOS, as templates print it.
    pub bos_token: Option<String>,
    /// The text of EOS.
    pub eos_token: Option<String>,
    /// The longest context, in tokens.
    pub model_max_length: Option<u64>,
    /// The chat templates by name; a single one is called `default`.
    pub chat_templates: Vec<(String, String)>,
}

impl TokenizerConfig {
    /// Reads the configuration of a model directory. `chat_template.jinja`, where it exists, takes the place of the
    /// default template in the JSON file. A directory without either file yields an empty configuration.
    ///
    /// # Errors
    /// When a file is there and cannot be read, or a field has a form that no writer is known to use.
    pub fn read(dir: impl AsRef<Path>) -> Result<Self, TokenizerError> {
        let path = dir.as_ref().join("tokenizer_config.json");
        let mut config = match fs_err::read(&path) {
            Ok(bytes) => {
                Self::from_bytes(&bytes).map_err(|source| TokenizerError::File { path, source: Box::new(source) })?
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::default(),
            Err(error) => return Err(error.into()),
        };
        match fs_err::read_to_string(dir.as_ref().join("chat_template.jinja")) {
            Ok(source) => {
                config.chat_templates.retain(|(name, _)| name != "default");
                config.chat_templates.insert(0, ("default".to_owned(), source));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        Ok(config)
    }

    /// Reads the bytes of a `tokenizer_config.json`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TokenizerError> {
        let json: Value = serde_json::from_slice(bytes).map_err(TokenizerError::ConfigJson)?;
        if !json.is_object() {
            return Err(field_error("tokenizer_config.json", &json, "an object"));
        }
        Ok(Self {
            add_bos_token: optional(&json, "add_bos_token", "true or false", Value::as_bool)?,
            bos_token: optional(&json, "bos_token", TOKEN_FORM, token_text)?,
            eos_token: optional(&json, "eos_token", TOKEN_FORM, token_text)?,
            // Some writers put 1e30 here for "no limit", which is no integer and means what absence means.
            model_max_length: json["model_max_length"].as_u64(),
            chat_templates: optional(&json, "chat_template", "a template or a list of named templates", templates)?
                .unwrap_or_default(),
        })
    }
}

/// Writes `tokenizer.json` and `tokenizer_config.json` into the model directory `dir`, as transformers reads them.
///
/// `add_bos_token` says whether a plain completion starts with BOS, which must be so exactly if documents did in training.
///
/// # Errors
/// When a file cannot be written.
pub fn write_model_files(
    dir: impl AsRef<Path>,
    trained: &Trained,
    format: ChatFormat,
    model_max_length: u64,
    add_bos_token: bool,
) -> Result<(), TokenizerError> {
    let config = json!({
        "add_bos_token": add_bos_token,
        "add_eos_token": false,
        "bos_token": Role::Bos.text(),
        "eos_token": Role::Eos.text(),
        "pad_token": Role::Pad.text(),
        "unk_token": null,
        "clean_up_tokenization_spaces": false,
        "model_max_length": model_max_length,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": format.source(),
    });
    let mut config = serde_json::to_vec_pretty(&config)?;
    config.push(b'\n');
    fs_err::write(dir.as_ref().join("tokenizer.json"), &trained.json)?;
    fs_err::write(dir.as_ref().join("tokenizer_config.json"), config)?;
    Ok(())
}

const TOKEN_FORM: &str = "a string, or an object with a string \"content\"";

fn token_text(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value["content"].as_str()).map(str::to_owned)
}

fn templates(value: &Value) -> Option<Vec<(String, String)>> {
    match value {
        Value::String(source) => Some(vec![("default".to_owned(), source.clone())]),
        Value::Array(list) => list
            .iter()
            .map(|item| Some((item["name"].as_str()?.to_owned(), item["template"].as_str()?.to_owned())))
            .collect(),
        _ => None,
    }
}

fn optional<T>(
    json: &Value,
    field: &'static str,
    expected: &'static str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Option<T>, TokenizerError> {
    match &json[field] {
        Value::Null => Ok(None),
        value => read(value).map(Some).ok_or_else(|| field_error(field, value, expected)),
    }
}

fn field_error(field: &'static str, value: &Value, expected: &'static str) -> TokenizerError {
    TokenizerError::Config { field, found: value.to_string(), expected }
}
