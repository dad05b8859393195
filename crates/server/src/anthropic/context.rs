//! `context_management`: what a service is to take out of a conversation that grows long.
//!
//! Nothing is taken out here, so an edit is accepted where there would be nothing to do, and refused otherwise.

use serde_json::json;

use crate::error::ApiError;
use crate::fields::{Fields, short};
use crate::served::Served;

const MAX_EDITS: usize = 16;

/// Tokens of a prompt at which an edit begins that does not say so, as published.
const CLEARS_AT: u64 = 100_000;
const COMPACTS_AT: u64 = 150_000;

/// Refuses edits that would have something to do.
pub(crate) fn check(fields: &mut Fields, served: &Served) -> Result<(), ApiError> {
    let Some(mut management) = fields.object("context_management")? else { return Ok(()) };
    let path = management.path("edits");
    let edits = management.list("edits", MAX_EDITS)?.unwrap_or_default();
    management.end()?;
    for (i, edit) in edits.into_iter().enumerate() {
        let mut edit = Fields::of(edit, format!("{path}[{i}]"))?;
        let kinds = ["clear_thinking_20251015", "clear_tool_uses_20250919", "compact_20260112"];
        match edit.required_choice("type", &kinds)? {
            "clear_thinking_20251015" => thinking(&mut edit, served.prints_reasoning)?,
            "clear_tool_uses_20250919" => {
                unreached(&mut edit, CLEARS_AT, served.max_model_len)?;
                // What an edit would do that never begins.
                for name in ["clear_at_least", "clear_tool_inputs", "exclude_tools", "keep"] {
                    edit.any(name);
                }
            }
            _ => {
                unreached(&mut edit, COMPACTS_AT, served.max_model_len)?;
                for name in ["instructions", "pause_after_compaction"] {
                    edit.any(name);
                }
            }
        }
        edit.end()?;
    }
    Ok(())
}

/// Formats of this family print no reasoning of earlier turns, so that nothing is left to clear of it. Where a template prints
/// it, only all of it can be kept.
fn thinking(edit: &mut Fields, prints_reasoning: bool) -> Result<(), ApiError> {
    let path = edit.path("keep");
    // As published, one turn's is kept where nothing is said.
    let keep = edit.any("keep").unwrap_or_else(|| json!({ "type": "thinking_turns", "value": 1 }));
    let keeps_all = keep == "all" || keep == json!({ "type": "all" });
    let turns = keep["type"] == "thinking_turns" && keep["value"].as_u64().is_some_and(|turns| turns > 0);
    if keeps_all || (turns && !prints_reasoning) {
        return Ok(());
    }
    let message =
        format!("{path} is {}, but nothing is taken out of a conversation here; make it \"all\"", short(&keep));
    Err(ApiError::field("unsupported_parameter", path, message))
}

/// An edit that begins at more tokens than the context has never does.
fn unreached(edit: &mut Fields, default: u64, max_model_len: usize) -> Result<(), ApiError> {
    let path = edit.path("trigger");
    let at = match edit.object("trigger")? {
        None => Some(default),
        Some(mut trigger) => {
            let kind = trigger.required_choice("type", &["input_tokens", "tool_uses"])?;
            let value = trigger.integer("value", 1..=u64::from(u32::MAX))?;
            let value = trigger.required("value", value)?;
            trigger.end()?;
            (kind == "input_tokens").then_some(value)
        }
    };
    if at.is_some_and(|at| at >= max_model_len as u64) {
        return Ok(());
    }
    let message = format!(
        "{path} may be reached before this model's context of {max_model_len} tokens is full, and nothing is taken out of a \
         conversation here; leave the edit out and shorten the conversation yourself"
    );
    Err(ApiError::field("unsupported_parameter", path, message))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn thinking_of(edit: Value, prints_reasoning: bool) -> Result<(), ApiError> {
        let mut edit = Fields::of(edit, "edit").unwrap();
        thinking(&mut edit, prints_reasoning)?;
        edit.end()
    }

    #[test]
    fn thoughts_are_kept_or_are_none() {
        for all in [json!({ "keep": "all" }), json!({ "keep": { "type": "all" } })] {
            assert!(thinking_of(all.clone(), true).is_ok() && thinking_of(all, false).is_ok());
        }
        for some in [json!({}), json!({ "keep": { "type": "thinking_turns", "value": 2 } })] {
            assert!(thinking_of(some.clone(), false).is_ok());
            assert_eq!(thinking_of(some, true).unwrap_err().param.as_deref(), Some("edit.keep"));
        }
        assert_eq!(thinking_of(json!({ "keep": 7 }), false).unwrap_err().code, "unsupported_parameter");
    }

    #[test]
    fn an_edit_begins_within_the_context_or_never() {
        let trigger = |kind: &str, value: u64| json!({ "trigger": { "type": kind, "value": value } });
        let of = |edit: Value| unreached(&mut Fields::of(edit, "edit").unwrap(), 100, 2048);
        assert!(of(trigger("input_tokens", 2048)).is_ok());
        for reached in [json!({}), trigger("input_tokens", 2047), trigger("tool_uses", 5000)] {
            let error = of(reached).unwrap_err();
            assert_eq!((error.code, error.param.as_deref()), ("unsupported_parameter", Some("edit.trigger")));
        }
        assert_eq!(of(trigger("days", 1)).unwrap_err().code, "invalid_value");
    }
}
