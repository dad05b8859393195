//! A matrix from one format to another, some rows at a time.

use anyhow::{Result, bail};
use checkpoint::{Element, Format, Sink};
use tensor::{BLOCK, Codes, Ctx, Storage, bf16};

/// Numbers of a strip, 16 MiB as f32: what is held of a matrix at a time, if 128 rows are not more.
const STRIP: usize = 1 << 22;

/// Writes `weight`, a matrix of `dims`, as `to`: its numbers as tensor 0 of the unit, its scales as tensor 1. Strips are
/// whole rows of blocks, so that they are coded as the whole matrix would be.
pub(super) fn write(
    ctx: &Ctx,
    name: &str,
    weight: &Storage,
    [rows, cols]: [usize; 2],
    to: Format,
    sink: &mut Sink<'_>,
) -> Result<()> {
    let height = (STRIP / cols.max(1) / BLOCK).max(1) * BLOCK;
    let mut values = Vec::new();
    let mut bytes = Vec::new();
    for start in (0..rows).step_by(height) {
        let height = height.min(rows - start);
        values.resize(height * cols, 0.0);
        let chunk = cols.max(1);
        ctx.for_each_chunk(&mut values, chunk, |i, row| weight.read_row(start + i, row));
        if to.scale_suffix().is_some()
            && let Some(at) = values.iter().position(|x| !x.is_finite())
        {
            let [row, col] = [start + at / cols, at % cols];
            bail!("tensor `{name}` holds {} at [{row}, {col}], which cannot be quantised", values[at]);
        }
        match to {
            Format::Fp8 => put(ops::quantise::fp8(ctx, &values, height, cols), sink)?,
            Format::Int8 => put(ops::quantise::int8(ctx, &values, height, cols), sink)?,
            Format::Int4 => put(ops::quantise::int4(ctx, &values, height, cols), sink)?,
            Format::F32 => {
                bytes.clear();
                f32::encode(&values, &mut bytes);
                sink.append(0, &bytes)?;
            }
            Format::Bf16 => {
                bytes.clear();
                let rounded: Vec<bf16> = values.iter().map(|&x| bf16::from_f32(x)).collect();
                bf16::encode(&rounded, &mut bytes);
                sink.append(0, &bytes)?;
            }
            Format::F16 => unreachable!("no recipe asks for F16"),
        }
    }
    Ok(())
}

/// Writes codes and scales.
fn put(codes: Codes, sink: &mut Sink<'_>) -> Result<()> {
    let mut bytes = Vec::new();
    let codes = match codes {
        Codes::Fp8 { codes, scales } => {
            f32::encode(&scales, &mut bytes);
            codes
        }
        Codes::Int8 { codes, scales } | Codes::Int4 { codes, scales } => {
            bf16::encode(&scales, &mut bytes);
            codes
        }
        Codes::F32(_) | Codes::Bf16(_) => unreachable!("quantised numbers are codes"),
    };
    sink.append(0, &codes)?;
    Ok(sink.append(1, &bytes)?)
}

#[cfg(test)]
mod tests {
    use checkpoint::{Load, Reader, TensorSpec, stream_model};
    use tensor::{Matrix, Rng, Slab, TensorSource};

    use super::*;

    /// A matrix of three strips, the last of them short.
    #[test]
    fn strips_do_not_show_in_the_result() {
        let [rows, cols] = [300, 20_000];
        let mut rng = Rng::new(1, "strips", 0);
        let values: Vec<f32> = (0..rows * cols).map(|_| rng.normal() as f32).collect();
        let ctx = Ctx::new(2).unwrap();
        let weight = Storage::matrix(Matrix::new(rows, cols, Codes::F32(Slab::from_vec(values.clone()))));
        for (format, whole) in [
            (Format::Fp8, ops::quantise::fp8(&ctx, &values, rows, cols)),
            (Format::Int8, ops::quantise::int8(&ctx, &values, rows, cols)),
            (Format::Int4, ops::quantise::int4(&ctx, &values, rows, cols)),
        ] {
            let spec = |name: String, dtype, dims: [usize; 2]| TensorSpec { name, dtype, dims: dims.into() };
            let unit = vec![
                spec("w".into(), format.dtype(), format.stored_shape(rows, cols)),
                spec(
                    format!("w{}", format.scale_suffix().unwrap()),
                    format.scale_dtype(),
                    format.scale_shape(rows, cols),
                ),
            ];
            let dir = tempfile::tempdir().unwrap();
            stream_model(dir.path(), &[unit], u64::MAX, |_, sink: &mut Sink<'_>| {
                write(&ctx, "w", &weight, [rows, cols], format, sink)
            })
            .unwrap();
            let reader = Reader::open(dir.path()).unwrap().with_dtype(Load::AsStored);
            let written = reader.load("w", &[rows, cols]).unwrap().to_f32();
            assert!(written == Storage::matrix(Matrix::new(rows, cols, whole)).to_f32(), "{format:?}");
        }
    }
}
