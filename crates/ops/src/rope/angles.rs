use tensor::{Ctx, Tensor};

/// The rotary frequencies of a model and the factors that YaRN adds.
#[derive(Clone, Debug, PartialEq)]
pub struct Angles {
    /// Radians per position, one for each pair: `[dr/2]`.
    pub inv_freq: Vec<f32>,
    /// Multiplies every cosine and sine.
    pub factor: f64,
    /// Multiplies the softmax scale `(dn + dr)^-½` twice, that is squared. 1 without YaRN.
    pub softmax_mscale: f64,
}

/// The parameters of YaRN under the names of `rope_scaling` in a Hugging Face configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Yarn {
    /// By how much the context is longer than the original one.
    pub factor: f64,
    /// The context length before.
    pub original_max_position_embeddings: f64,
    /// Pairs that turn more often than this within the original context keep their frequency.
    pub beta_fast: f64,
    /// Pairs that turn less often than this are interpolated entirely.
    pub beta_slow: f64,
    /// Strength of the factor on cosines and sines; 0 is as good as absent.
    pub mscale: Option<f64>,
    /// Strength of the factor on the softmax scale; 0 is as good as absent.
    pub mscale_all_dim: Option<f64>,
    /// The factor on cosines and sines, if it is given outright.
    pub attention_factor: Option<f64>,
    /// Whether the two ends of the blend are rounded to whole pairs.
    pub truncate: bool,
}

/// Cosines and sines of some positions.
#[derive(Clone, Debug)]
pub struct CosSin {
    pub(super) cos: Tensor, // [T, dr/2]
    pub(super) sin: Tensor, // [T, dr/2]
}

impl Angles {
    /// Frequencies of `dim` (even) rotated values.
    ///
    /// The order of roundings is that of the Hugging Face implementation, to the bit.
    pub fn new(dim: usize, theta: f64, yarn: Option<&Yarn>) -> Self {
        assert!(dim.is_multiple_of(2), "rope: {dim} values do not pair up");
        let periods: Vec<f32> = (0..dim / 2).map(|i| period(theta, (2 * i) as f32 / dim as f32)).collect();
        let Some(yarn) = yarn else {
            let inv_freq = periods.iter().map(|p| 1.0 / p).collect();
            return Self { inv_freq, factor: 1.0, softmax_mscale: 1.0 };
        };
        let (low, high) = yarn.blend(dim, theta);
        let blended = |(i, p): (usize, &f32)| {
            let ramp = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
            let keep = 1.0 - ramp;
            (1.0 / (yarn.factor as f32 * p)) * (1.0 - keep) + (1.0 / p) * keep
        };
        Self {
            inv_freq: periods.iter().enumerate().map(blended).collect(),
            factor: yarn.cos_sin_factor(),
            softmax_mscale: yarn.mscale_all_dim.map_or(1.0, |m| yarn.magnitude(m)),
        }
    }

    /// The cosines and sines of `positions [T]`.
    pub fn table(&self, ctx: &Ctx, positions: &[u32]) -> CosSin {
        let half = self.inv_freq.len();
        let factor = self.factor as f32;
        let fill = |f: fn(f64) -> f64| {
            let mut out = ctx.empty([positions.len(), half]);
            ctx.for_each_chunk(out.data_mut(), ROWS * half.max(1), |chunk, out| {
                for (row, &position) in out.chunks_exact_mut(half).zip(&positions[chunk * ROWS..]) {
                    for (out, frequency) in row.iter_mut().zip(&self.inv_freq) {
                        // One f32 product: a more exact angle would be a different one.
                        let angle = position as f32 * frequency;
                        *out = f(f64::from(angle)) as f32 * factor;
                    }
                }
            });
            out
        };
        CosSin { cos: fill(f64::cos), sin: fill(f64::sin) }
    }
}

/// Positions per task of a table.
const ROWS: usize = 64;

impl Yarn {
    /// From which pair on frequencies are blended, and from which on they are interpolated entirely.
    fn blend(&self, dim: usize, theta: f64) -> (f64, f64) {
        let pair = |rotations: f64| {
            let positions = self.original_max_position_embeddings / (rotations * std::f64::consts::TAU);
            dim as f64 * positions.ln() / (2.0 * theta.ln())
        };
        let (mut low, mut high) = (pair(self.beta_fast), pair(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim as f64 - 1.0));
        (low, if low == high { high + 0.001 } else { high })
    }

    fn cos_sin_factor(&self) -> f64 {
        if let Some(factor) = self.attention_factor {
            return factor;
        }
        match (self.mscale, self.mscale_all_dim) {
            (Some(m), Some(all)) if m != 0.0 && all != 0.0 => self.magnitude(m) / self.magnitude(all),
            _ => self.magnitude(1.0),
        }
    }

    fn magnitude(&self, strength: f64) -> f64 {
        if self.factor <= 1.0 { 1.0 } else { 0.1 * strength * self.factor.ln() + 1.0 }
    }
}

/// `theta^exponent`, in f64 and then rounded. An f32 power is off by a unit in several entries, and one is enough to fail.
fn period(theta: f64, exponent: f32) -> f32 {
    let rounded = theta.powf(f64::from(exponent)) as f32;
    // The one entry of the released models (Moonlight, Kimi-K2) where the vectorised f32 power behind the published
    // numbers is not correctly rounded, but one unit above.
    if theta == 50_000.0 && exponent == 0.156_25 { rounded.next_up() } else { rounded }
}
