//! Models by name: the six releases of the family and three small ones of our own.

use crate::model::ModelConfig;
use crate::suggest::{hint, nearest};

/// A named model configuration.
#[derive(Debug, Clone, Copy)]
pub struct Preset {
    /// The name on the command line.
    pub name: &'static str,
    /// What it is, in one line.
    pub summary: &'static str,
    json: &'static str,
}

/// All presets, small ones first.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "tiny",
        summary: "about 0.24 M parameters, every feature on; for tests",
        json: include_str!("../presets/tiny.json"),
    },
    Preset {
        name: "nano",
        summary: "about 2.2 M parameters, V3's full shape for minutes on a laptop",
        json: include_str!("../presets/nano.json"),
    },
    Preset {
        name: "small",
        summary: "about 133 M parameters, of which 39 M active; for measurements",
        json: include_str!("../presets/small.json"),
    },
    Preset {
        name: "deepseek-v3",
        summary: "671 B parameters, of which 37 B active; also R1 and V3-0324",
        json: include_str!("../presets/deepseek-v3.json"),
    },
    Preset {
        name: "deepseek-v3.1",
        summary: "deepseek-v3 with power-of-two activation scales",
        json: include_str!("../presets/deepseek-v3.1.json"),
    },
    Preset {
        name: "kimi-k2",
        summary: "1026 B parameters, 384 experts without groups (first release)",
        json: include_str!("../presets/kimi-k2.json"),
    },
    Preset {
        name: "moonlight-16b-a3b",
        summary: "16 B parameters, no query compression, no YaRN",
        json: include_str!("../presets/moonlight-16b-a3b.json"),
    },
    Preset {
        name: "deepseek-v2",
        summary: "236 B parameters, softmax routing limited to 3 of 8 groups",
        json: include_str!("../presets/deepseek-v2.json"),
    },
    Preset {
        name: "deepseek-v2-lite",
        summary: "16 B parameters, softmax routing, no query compression",
        json: include_str!("../presets/deepseek-v2-lite.json"),
    },
];

/// No preset of this name.
#[derive(Debug, thiserror::Error)]
#[error("no preset is called \"{name}\"; there are {}{}", names(), hint(nearest(name, PRESETS.iter().map(|p| p.name))))]
pub struct UnknownPreset {
    /// The name asked for.
    pub name: String,
}

/// The model configuration called `name`.
///
/// # Errors
/// There is none; the error lists them all and suggests the nearest.
pub fn preset(name: &str) -> Result<ModelConfig, UnknownPreset> {
    let preset = PRESETS.iter().find(|p| p.name == name).ok_or_else(|| UnknownPreset { name: name.to_owned() })?;
    Ok(preset.config())
}

impl Preset {
    /// The model configuration.
    pub fn config(&self) -> ModelConfig {
        ModelConfig::from_json_str(self.json).expect("every preset is valid, as a test checks")
    }
}

fn names() -> String {
    PRESETS.iter().map(|p| p.name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::{PRESETS, preset};

    #[test]
    fn every_preset_is_valid_and_found_by_its_name() {
        for p in PRESETS {
            assert_eq!(preset(p.name).unwrap(), p.config(), "{}", p.name);
        }
    }

    #[test]
    fn an_unknown_name_gets_the_list_and_the_nearest() {
        let message = preset("deepseek-v3-lite").unwrap_err().to_string();
        assert_eq!(
            message,
            "no preset is called \"deepseek-v3-lite\"; there are tiny, nano, small, deepseek-v3, deepseek-v3.1, \
             kimi-k2, moonlight-16b-a3b, deepseek-v2, deepseek-v2-lite; did you mean \"deepseek-v2-lite\"?"
        );
    }
}
