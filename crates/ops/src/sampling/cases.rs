//! Settings and sizes that matter.

use super::Params;

const PLAIN: Params = Params {
    temperature: 1.0,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
    repetition_penalty: 1.0,
    presence_penalty: 0.0,
    frequency_penalty: 0.0,
};

/// DeepSeek-V3's defaults.
pub const V3: Params = Params { temperature: 0.6, top_p: 0.95, ..PLAIN };

/// Correctness: every filter alone, and all together.
pub const EXACT: &[Params] = &[
    PLAIN,
    V3,
    Params { temperature: 0.0, ..PLAIN },
    Params { temperature: 5.0, ..PLAIN },
    Params { top_k: 1, ..PLAIN },
    Params { top_k: 40, ..PLAIN },
    Params { top_k: 1 << 40, ..PLAIN },
    Params { top_p: 0.3, ..PLAIN },
    Params { top_p: 0.999, ..PLAIN },
    Params { min_p: 0.1, ..PLAIN },
    Params { min_p: 1.0, ..PLAIN },
    Params { repetition_penalty: 1.3, ..PLAIN },
    Params { repetition_penalty: 0.7, ..PLAIN },
    Params { presence_penalty: 1.5, ..PLAIN },
    Params { frequency_penalty: -0.5, ..PLAIN },
    Params {
        temperature: 0.8,
        top_k: 50,
        top_p: 0.9,
        min_p: 0.02,
        repetition_penalty: 1.1,
        presence_penalty: 0.3,
        frequency_penalty: 0.2,
    },
];

/// Speed, at DeepSeek-V3's vocabulary.
pub const SPEED: &[(&str, Params)] = &[
    ("plain", PLAIN),
    ("greedy", Params { temperature: 0.0, ..PLAIN }),
    ("top_k 50", Params { top_k: 50, ..PLAIN }),
    ("top_p 0.95", V3),
];

/// Of a probability, relative: the exponential's two units in the last place, at an argument that four roundings made.
pub const TOLERANCE: f64 = 5e-6;
