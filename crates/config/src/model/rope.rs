//! The rotary part of a config in both spellings: `rope_theta` with `rope_scaling`, and `rope_parameters`.

use serde_json::Value;

use super::error::ModelConfigError;
use super::read::Reader;

/// YaRN as the config gives it (arXiv 2309.00071 §3.2). The frequency tables themselves are an operation's business.
#[derive(Debug, Clone, PartialEq)]
pub struct Yarn {
    /// How many times longer than the original context.
    pub factor: f64,
    /// Context length before the extension.
    pub original_max_position_embeddings: usize,
    /// Rotations above which a frequency is kept.
    pub beta_fast: f64,
    /// Rotations below which a frequency is divided by `factor`.
    pub beta_slow: f64,
    /// Numerator of the factor on cos and sin; `None` when absent or 0, which mean the same.
    pub mscale: Option<f64>,
    /// Denominator of the factor on cos and sin, and the temperature of the softmax; `None` when absent or 0.
    pub mscale_all_dim: Option<f64>,
    /// The factor on cos and sin, when the file gives it instead of leaving it to follow.
    pub attention_factor: Option<f64>,
    /// Whether the ends of the blend are rounded outwards to whole frequencies.
    pub truncate: bool,
}

impl Yarn {
    /// Factor on cos and sin.
    pub fn cos_sin_factor(&self) -> f64 {
        match (self.attention_factor, self.mscale, self.mscale_all_dim) {
            (Some(given), _, _) => given,
            (None, Some(mscale), Some(all_dim)) => self.temperature(mscale) / self.temperature(all_dim),
            _ => self.temperature(1.0),
        }
    }

    /// The factor that enters the softmax scale squared.
    pub fn softmax_mscale(&self) -> f64 {
        self.mscale_all_dim.map_or(1.0, |all_dim| self.temperature(all_dim))
    }

    /// `0.1 · a · ln(factor) + 1`, or 1 without extension.
    fn temperature(&self, a: f64) -> f64 {
        if self.factor <= 1.0 { 1.0 } else { 0.1 * a * self.factor.ln() + 1.0 }
    }
}

/// The base and the scaling. Both spellings may be present when they agree.
pub(super) fn read(top: &Reader, max_position: usize) -> Result<(f64, Option<Yarn>), ModelConfigError> {
    let Some(value) = top.value("rope_parameters") else {
        let scaling = match top.present("rope_scaling")? {
            Value::Null => None,
            value => scaling(&top.nested("rope_scaling", value)?, max_position)?,
        };
        return Ok((top.f64("rope_theta")?, scaling));
    };
    let parameters = top.nested("rope_parameters", value)?;
    let new = scaling(&parameters, max_position)?;
    let theta = match (parameters.f64_opt("rope_theta")?, top.f64_opt("rope_theta")?) {
        (Some(new), Some(old)) if new != old => {
            return Err(contradiction("rope_theta", old.to_string(), "rope_parameters.rope_theta", new.to_string()));
        }
        (Some(theta), _) | (None, Some(theta)) => theta,
        (None, None) => return Err(parameters.missing("rope_theta")),
    };
    if let Some(value) = top.value("rope_scaling") {
        let old = scaling(&top.nested("rope_scaling", value)?, max_position)?;
        if old != new {
            let text = |yarn: &Option<Yarn>| yarn.as_ref().map_or("none".into(), |yarn| format!("{yarn:?}"));
            return Err(contradiction("rope_scaling", text(&old), "rope_parameters", text(&new)));
        }
    }
    Ok((theta, new))
}

fn scaling(reader: &Reader, max_position: usize) -> Result<Option<Yarn>, ModelConfigError> {
    let kind = |key| reader.value(key).map(|value| reader.as_str(key, value)).transpose();
    let (new, old) = (kind("rope_type")?, kind("type")?);
    if let (Some(new), Some(old)) = (new, old)
        && new != old
    {
        return Err(contradiction(&reader.path("type"), old.into(), &reader.path("rope_type"), new.into()));
    }
    match new.or(old) {
        Some("default") => return Ok(None),
        Some("yarn") => {}
        Some(other) => return Err(reader.unsupported("rope_type", other, "yarn, default")),
        None => return Err(reader.missing("rope_type")),
    }
    let nonzero = |key| Ok::<_, ModelConfigError>(reader.f64_opt(key)?.filter(|&value| value != 0.0));
    let yarn = Yarn {
        factor: reader.f64("factor")?,
        original_max_position_embeddings: reader.size_or("original_max_position_embeddings", max_position)?,
        beta_fast: nonzero("beta_fast")?.unwrap_or(32.0),
        beta_slow: nonzero("beta_slow")?.unwrap_or(1.0),
        mscale: nonzero("mscale")?,
        mscale_all_dim: nonzero("mscale_all_dim")?,
        attention_factor: reader.f64_opt("attention_factor")?,
        truncate: reader.bool_or("truncate", true)?,
    };
    check(reader, &yarn)?;
    Ok(Some(yarn))
}

fn check(reader: &Reader, yarn: &Yarn) -> Result<(), ModelConfigError> {
    let refuse =
        |key: &str, found: String, must| Err(ModelConfigError::OutOfRange { field: reader.path(key), found, must });
    if yarn.factor < 1.0 {
        return refuse("factor", yarn.factor.to_string(), "at least 1");
    }
    if yarn.original_max_position_embeddings == 0 {
        return refuse("original_max_position_embeddings", "0".into(), "at least 1");
    }
    for (key, value) in [
        ("beta_fast", Some(yarn.beta_fast)),
        ("beta_slow", Some(yarn.beta_slow)),
        ("mscale", yarn.mscale),
        ("mscale_all_dim", yarn.mscale_all_dim),
        ("attention_factor", yarn.attention_factor),
    ] {
        if let Some(value) = value.filter(|&value| value <= 0.0) {
            return refuse(key, value.to_string(), "positive");
        }
    }
    if yarn.beta_fast < yarn.beta_slow {
        return Err(ModelConfigError::Conflict {
            field: reader.path("beta_fast"),
            found: yarn.beta_fast.to_string(),
            other: reader.path("beta_slow"),
            other_found: yarn.beta_slow.to_string(),
            rule: "beta_fast must not be below beta_slow",
        });
    }
    Ok(())
}

fn contradiction(field: &str, found: String, other: &str, other_found: String) -> ModelConfigError {
    ModelConfigError::Conflict {
        field: field.to_owned(),
        found,
        other: other.to_owned(),
        other_found,
        rule: "they are two spellings of one key",
    }
}
