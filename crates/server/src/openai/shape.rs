//! `response_format`: what an answer must look like.

use grammar::Grammar;
use serde_json::Value;

use crate::error::ApiError;
use crate::fields::Fields;

/// The grammar that a request asks for. Beside OpenAI's formats there are `regex` (with `regex`), `grammar` (with a
/// Lark grammar in `grammar`) and `choice` (with texts in `choice`).
pub(crate) fn read(fields: &mut Fields) -> Result<Option<Grammar>, ApiError> {
    let Some(mut format) = fields.object("response_format")? else { return Ok(None) };
    let kinds = ["text", "json_object", "json_schema", "regex", "grammar", "choice"];
    let kind = format.choice("type", &kinds)?;
    let grammar = match format.required("type", kind)? {
        "json_object" => Some(Grammar::JsonObject),
        "json_schema" => {
            let inner = format.object("json_schema")?;
            Some(Grammar::JsonSchema(json_schema(format.required("json_schema", inner)?)?))
        }
        "regex" => {
            let regex = format.string("regex")?;
            Some(Grammar::Regex(format.required("regex", regex)?))
        }
        "grammar" => {
            let grammar = format.string("grammar")?;
            Some(Grammar::Lark(format.required("grammar", grammar)?))
        }
        "choice" => {
            let choices = format.list("choice", 4096)?;
            let choices = format.required("choice", choices)?;
            let text = |value: Value| match value {
                Value::String(text) => Ok(text),
                other => Err(format.wrong_type("choice", "a list of strings", &other)),
            };
            Some(Grammar::Choice(choices.into_iter().map(text).collect::<Result<_, _>>()?))
        }
        _ => None,
    };
    format.end()?;
    Ok(grammar)
}

fn json_schema(mut fields: Fields) -> Result<Value, ApiError> {
    let name = fields.string("name")?;
    super::messages::check_name(&fields.required("name", name)?, &fields.path("name"))?;
    // Answers always hold to the schema, so a description and `strict` say nothing that is not so anyway.
    fields.string("description")?;
    if fields.boolean("strict")? == Some(false) {
        let path = fields.path("strict");
        let message = format!("{path} is false, but answers are always held to the schema; leave it out");
        return Err(ApiError::field("unsupported_parameter", path, message));
    }
    let schema = fields.any("schema");
    let schema = fields.required("schema", schema)?;
    fields.end()?;
    Ok(schema)
}
