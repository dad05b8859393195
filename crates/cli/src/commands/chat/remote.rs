use std::io::IsTerminal;

use anyhow::Result;
use client::Answer;
use serde_json::{Map, Value};

use super::Partner;
use super::screen::Screen;
use crate::args::{Chat, SamplingArgs};
use crate::commands::server;
use crate::failure::{self, Usage};

/// A server that answers.
pub(super) struct Remote {
    chat: client::Chat,
    last: Option<Answer>,
    /// A person is there to try again after a failure.
    is_interactive: bool,
}

pub(super) fn open(url: &str, args: &Chat) -> Result<Remote> {
    let model = match &args.model {
        Some(name) => Some(name.to_str().ok_or_else(|| Usage("--model is no text; with --url it is a name".into()))?),
        None => None,
    };
    let api = server::open(url, &args.access)?;
    let wants_progress = std::io::stderr().is_terminal();
    let chat = client::Chat::new(api, model, args.system.as_deref(), options(&args.sampling), wants_progress)?;
    let is_interactive = std::io::stdin().is_terminal();
    if is_interactive {
        eprintln!("{} at {url}", chat.model());
    }
    Ok(Remote { chat, last: None, is_interactive })
}

impl Partner for Remote {
    fn turn(&mut self, text: &str) -> Result<()> {
        let mut screen = Screen::standard();
        let outcome = self.chat.turn(text, &mut |piece| screen.show(piece));
        screen.end()?;
        match outcome {
            Ok(answer) => {
                if self.is_interactive && answer.finish_reason.as_deref() == Some("length") {
                    eprintln!("(the answer was cut; --max-tokens makes it longer)");
                }
                self.last = Some(answer);
                Ok(())
            }
            Err(error) if self.is_interactive => {
                failure::report(&error.into());
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn restart(&mut self, system: Option<&str>) {
        self.chat.restart(system);
    }

    fn stats(&self) -> Option<String> {
        self.last.as_ref().map(stats)
    }
}

/// The fields that the arguments give; what they do not give is the server's choice.
fn options(args: &SamplingArgs) -> Map<String, Value> {
    // Through text, so that 0.7 is sent as 0.7 and not as the nearest f32.
    let number = |x: f32| x.to_string().parse::<f64>().map_or(Value::Null, Value::from);
    let mut fields = Map::new();
    let floats = [
        ("temperature", args.temperature),
        ("top_p", args.top_p),
        ("min_p", args.min_p),
        ("repetition_penalty", args.repetition_penalty),
        ("presence_penalty", args.presence_penalty),
        ("frequency_penalty", args.frequency_penalty),
    ];
    fields.extend(floats.into_iter().filter_map(|(name, value)| Some((name.to_owned(), number(value?)))));
    fields.extend(args.top_k.map(|top_k| ("top_k".to_owned(), top_k.into())));
    fields.insert("seed".to_owned(), args.seed.into());
    fields.insert("max_tokens".to_owned(), args.max_tokens.into());
    if !args.stop.is_empty() {
        fields.insert("stop".to_owned(), args.stop.clone().into());
    }
    fields
}

/// What an answer took, in one line.
fn stats(answer: &Answer) -> String {
    let mut parts = Vec::new();
    let or_nothing =
        |count: Option<u64>, what: &str| count.map_or_else(String::new, |count| format!(", {count} {what}"));
    match &answer.usage {
        Some(usage) => {
            let known = or_nothing(usage.cached_tokens(), "known before");
            parts.push(format!("prompt of {} tokens{known}", usage.prompt_tokens));
            let thought = or_nothing(usage.reasoning_tokens(), "of reasoning");
            parts.push(format!("answer of {} tokens{thought}", usage.completion_tokens));
        }
        None => parts.push("the server counts no tokens".to_owned()),
    }
    if let Some(first) = answer.times.first {
        parts.push(format!("first text after {:.2} s", first.as_secs_f64()));
        let later = answer.usage.as_ref().map_or(0, |usage| usage.completion_tokens.saturating_sub(1));
        let seconds = answer.times.total.saturating_sub(first).as_secs_f64();
        if later > 0 && seconds > 0.0 {
            parts.push(format!("then {:.1} tokens a second", later as f64 / seconds));
        }
    }
    parts.push(format!("end after {:.2} s", answer.times.total.as_secs_f64()));
    parts.extend(answer.finish_reason.as_ref().map(|reason| format!("reason {reason}")));
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use client::{PromptDetails, Times, Usage};
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_was_given_is_sent() {
        let mut args = SamplingArgs {
            temperature: None,
            top_k: None,
            top_p: None,
            min_p: None,
            repetition_penalty: None,
            presence_penalty: None,
            frequency_penalty: None,
            seed: 3,
            max_tokens: 9,
            stop: vec![],
        };
        assert_eq!(Value::from(options(&args)), json!({ "seed": 3, "max_tokens": 9 }));
        (args.temperature, args.top_k, args.stop) = (Some(0.7), Some(5), vec!["x".into()]);
        let all = json!({ "temperature": 0.7, "top_k": 5, "seed": 3, "max_tokens": 9, "stop": ["x"] });
        assert_eq!(Value::from(options(&args)), all);
    }

    #[test]
    fn stats_say_what_is_known() {
        let times = Times { first: Some(Duration::from_millis(250)), total: Duration::from_millis(1250) };
        let mut answer = Answer { times, finish_reason: Some("stop".into()), ..Answer::default() };
        assert_eq!(
            stats(&answer),
            "the server counts no tokens; first text after 0.25 s; end after 1.25 s; reason stop"
        );
        let prompt_tokens_details = Some(PromptDetails { cached_tokens: Some(4) });
        answer.usage =
            Some(Usage { prompt_tokens: 8, completion_tokens: 21, prompt_tokens_details, ..Usage::default() });
        assert_eq!(
            stats(&answer),
            "prompt of 8 tokens, 4 known before; answer of 21 tokens; first text after 0.25 s; then 20.0 tokens a second; end \
             after 1.25 s; reason stop"
        );
    }
}
