//! `--quant`: which part of a model is stored how.

use std::collections::BTreeMap;

use config::{WeightFormat, WeightPart};

use crate::failure::Usage;

/// A parsed recipe such as `experts=q4,rest=fp8`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spec {
    named: BTreeMap<WeightPart, WeightFormat>,
    rest: Option<WeightFormat>,
}

const REST: &str = "rest";

impl Spec {
    /// Parses `PART=TYPE,..`; a `TYPE` alone is the type of the rest.
    pub(super) fn parse(text: &str) -> Result<Self, Usage> {
        let mut spec = Self { named: BTreeMap::new(), rest: None };
        for item in text.split(',') {
            let (part, format) = item.split_once('=').unwrap_or((REST, item));
            let (part, format) = (part.trim(), format.trim());
            let format = WeightFormat::from_name(format).ok_or_else(|| {
                let types = WeightFormat::ALL.map(WeightFormat::name).join(", ");
                Usage(format!("--quant {text}: there is no type {format:?}; the types are {types}"))
            })?;
            let before = if part == REST {
                spec.rest.replace(format)
            } else {
                let part = WeightPart::from_name(part).filter(|part| part.is_quantisable()).ok_or_else(|| {
                    let parts = WeightPart::QUANTISABLE_NAMES;
                    Usage(format!("--quant {text}: there is no part {part:?}; the parts are {parts}, {REST}"))
                })?;
                spec.named.insert(part, format)
            };
            if before.is_some() {
                return Err(Usage(format!("--quant {text}: the type of {part} is given twice")));
            }
        }
        Ok(spec)
    }

    /// The type of the weights of `part`; `None` where they stay as they are.
    pub(super) fn target(&self, part: WeightPart) -> Option<WeightFormat> {
        self.named.get(&part).copied().or_else(|| self.rest.filter(|&format| covers(format, part)))
    }

    /// The type of what is not quantised, where that is said of the whole model.
    pub(super) fn plain(&self) -> Option<WeightFormat> {
        self.rest.filter(|format| !format.is_quantised())
    }

    /// Refuses what would have no effect on a model that has weights of `parts`.
    pub(super) fn check(&self, parts: &[WeightPart]) -> Result<(), Usage> {
        if let Some(part) = self.named.keys().find(|part| !parts.contains(part)) {
            return Err(Usage(format!("--quant names {part}, but the model has no such weights")));
        }
        let is_rest = |part: &WeightPart| !self.named.contains_key(part);
        match self.rest {
            Some(format) if !parts.iter().any(|part| is_rest(part) && covers(format, *part)) => {
                Err(Usage(format!("--quant has {REST}={format}, but names every part that it could be for")))
            }
            _ => Ok(()),
        }
    }
}

/// Whether `part` is stored as `format` when that is said of the rest. A quantised type is for the linear layers that
/// released checkpoints quantise, bf16 and f32 for everything but the router.
fn covers(format: WeightFormat, part: WeightPart) -> bool {
    part.is_linear() || (!format.is_quantised() && part != WeightPart::Router)
}

#[cfg(test)]
mod tests {
    use super::*;
    use WeightFormat::{Bf16, F32, Fp8, Q4, Q8};
    use WeightPart::{Attention, Dense, Embed, Experts, Head, Projection, Router, Shared};

    #[track_caller]
    fn check(text: &str, expected: [Option<WeightFormat>; 8]) {
        let spec = Spec::parse(text).unwrap();
        let parts = [Experts, Attention, Shared, Dense, Embed, Head, Projection, Router];
        assert_eq!(parts.map(|part| spec.target(part)), expected, "{text}");
    }

    #[test]
    fn parts_get_the_type_that_is_said_of_them() {
        let (q4, q8, fp8) = (Some(Q4), Some(Q8), Some(Fp8));
        check("experts=q4,rest=fp8", [q4, fp8, fp8, fp8, None, None, None, None]);
        check("q4", [q4, q4, q4, q4, None, None, None, None]);
        check("head=q8, fp8", [fp8, fp8, fp8, fp8, None, q8, None, None]);
        check("experts=q4", [q4, None, None, None, None, None, None, None]);
        let bf16 = Some(Bf16);
        check("bf16", [bf16, bf16, bf16, bf16, bf16, bf16, bf16, None]);
        let f32 = Some(F32);
        check("rest=f32,experts=bf16", [bf16, f32, f32, f32, f32, f32, f32, None]);
    }

    #[test]
    fn nonsense_is_refused_with_what_there_is() {
        for (text, words) in [
            ("", "there is no type \"\"; the types are q4, q8, fp8, bf16, f32"),
            ("int4", "there is no type \"int4\""),
            ("experts=", "there is no type \"\""),
            (
                "expert=q4",
                "there is no part \"expert\"; the parts are experts, attention, shared, dense, embed, head, rest",
            ),
            ("router=q4", "there is no part \"router\""),
            ("experts=q4,experts=q8", "the type of experts is given twice"),
            ("q4,rest=q8", "the type of rest is given twice"),
            ("experts=q4=q8", "there is no type \"q4=q8\""),
            ("experts=q4,", "there is no type \"\""),
        ] {
            let message = Spec::parse(text).unwrap_err().0;
            assert!(message.contains(words), "{text}: {message}");
        }
    }

    #[test]
    fn what_has_no_effect_is_refused() {
        let check = |text: &str, parts: &[WeightPart]| Spec::parse(text).unwrap().check(parts).map_err(|e| e.0);
        assert!(check("experts=q4,rest=fp8", &[Experts, Attention, Embed]).is_ok());
        assert!(check("head=q8", &[Experts, Embed]).unwrap_err().contains("names head"));
        assert!(check("experts=q4,rest=fp8", &[Experts, Embed, Router]).unwrap_err().contains("rest=fp8"));
        assert!(check("experts=q4,rest=bf16", &[Experts, Embed, Router]).is_ok());
    }
}
