use tensor::{Ctx, Tensor, bf16};

use super::{CacheKind, Dims, Latents, Query, forward};
use crate::Precision;
use crate::check::{levels, random};

const KINDS: [CacheKind; 3] = [CacheKind::F32, CacheKind::Bf16, CacheKind::Fp8];
const LEN: usize = 200;

/// Widths at and across the ends of lines of 16 and 32 numbers, of 64 codes and of groups of 128.
const WIDTHS: [[usize; 2]; 6] = [[1, 1], [16, 31], [33, 64], [70, 14], [130, 6], [512, 64]];

fn tokens(rk: usize, dr: usize) -> (Tensor, Tensor) {
    (random([LEN, rk], 1), random([LEN, dr], 2))
}

/// The bits of all that a cache holds.
fn content(ctx: &Ctx, cache: &Latents) -> (Vec<u32>, Vec<u32>) {
    let super::block::Shape { rk, dr, .. } = cache.shape();
    let (mut c, mut r) = (vec![f32::NAN; cache.len() * rk], vec![f32::NAN; cache.len() * dr]);
    cache.read(ctx, 0..cache.len(), &mut c, &mut r);
    (c.iter().map(|x| x.to_bits()).collect(), r.iter().map(|x| x.to_bits()).collect())
}

fn filled(ctx: &Ctx, kind: CacheKind, c: &Tensor, r: &Tensor) -> Latents {
    let ([_, rk], [_, dr]) = (c.dims(), r.dims());
    let mut cache = Latents::new(kind, rk, dr);
    cache.append(ctx, c.data(), r.data());
    cache
}

#[test]
fn what_goes_in_comes_out_as_the_kind_rounds_it() {
    for [rk, dr] in WIDTHS {
        let (c, r) = tokens(rk, dr);
        for ctx in levels() {
            for kind in KINDS {
                let (got_c, got_r) = content(&ctx, &filled(&ctx, kind, &c, &r));
                let round = |x: &f32| if kind == CacheKind::F32 { *x } else { bf16::from_f32(*x).to_f32() };
                assert_eq!(got_r, r.data().iter().map(|x| round(x).to_bits()).collect::<Vec<_>>(), "r in {kind:?}");
                if kind != CacheKind::Fp8 {
                    assert_eq!(got_c, c.data().iter().map(|x| round(x).to_bits()).collect::<Vec<_>>(), "c in {kind:?}");
                    continue;
                }
                for (row, got) in c.data().chunks_exact(rk).zip(got_c.chunks_exact(rk)) {
                    for (group, got) in row.chunks(128).zip(got.chunks(128)) {
                        let largest = group.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
                        for (x, got) in group.iter().zip(got) {
                            let got = f32::from_bits(*got);
                            // Three bits of mantissa; below 2⁻⁶ of a factor that is at most largest / 224, steps of 2⁻⁹.
                            let bound = (x.abs() / 16.0).max(largest / 224.0 / 1024.0);
                            assert!((got - x).abs() <= bound, "{x} became {got}, the largest being {largest}");
                            assert_eq!(bf16::from_f32(got).to_f32(), got, "a bf16");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn levels_write_the_same_bits() {
    for [rk, dr] in WIDTHS {
        let (c, r) = tokens(rk, dr);
        for kind in KINDS {
            let want = content(&Ctx::new(1).unwrap(), &filled(&Ctx::new(1).unwrap(), kind, &c, &r));
            for ctx in levels() {
                assert_eq!(content(&ctx, &filled(&ctx, kind, &c, &r)), want, "{:?} {kind:?}", ctx.isa);
            }
        }
    }
}

#[test]
fn it_does_not_matter_how_tokens_come() {
    let ctx = Ctx::new(2).unwrap();
    for [rk, dr] in WIDTHS {
        let (c, r) = tokens(rk, dr);
        for kind in KINDS {
            let want = content(&ctx, &filled(&ctx, kind, &c, &r));
            for step in [1, 63, 64, 65, 129] {
                let mut cache = Latents::new(kind, rk, dr);
                for (c, r) in c.data().chunks(step * rk).zip(r.data().chunks(step * dr)) {
                    cache.append(&ctx, c, r);
                }
                assert_eq!(content(&ctx, &cache), want, "{kind:?} in steps of {step}");
            }
        }
    }
}

#[test]
fn any_rows_can_be_read() {
    let ctx = Ctx::new(2).unwrap();
    let (rk, dr) = (20, 6);
    let (c, r) = tokens(rk, dr);
    let cache = filled(&ctx, CacheKind::F32, &c, &r);
    for start in [0, 1, 63, 64, 65, 128, 199, 200] {
        for end in [start, start + 1, start + 63, start + 130, LEN] {
            let rows = start..end.clamp(start, LEN);
            let (mut got_c, mut got_r) = (vec![f32::NAN; rows.len() * rk], vec![f32::NAN; rows.len() * dr]);
            cache.read(&ctx, rows.clone(), &mut got_c, &mut got_r);
            assert_eq!(got_c, c.data()[rows.start * rk..rows.end * rk], "{rows:?}");
            assert_eq!(got_r, r.data()[rows.start * dr..rows.end * dr], "{rows:?}");
        }
    }
}

/// What one more row sees: all tokens.
fn attend(ctx: &Ctx, cache: &Latents, precision: Precision) -> Vec<u32> {
    let super::block::Shape { rk, dr, .. } = cache.shape();
    let dims = Dims { heads: 3, dn: 4, dr, dv: 4 };
    let (q, q_latent) = (random([1, 3 * (4 + dr)], 3), random([1, 3 * rk], 4));
    let query = Query { cache, rows: 0..1, first_position: cache.len() - 1 };
    forward(ctx, &q_latent, &q, &[query], dims, 0.1, precision).data().iter().map(|x| x.to_bits()).collect()
}

#[test]
fn what_was_cut_off_leaves_no_trace() {
    let ctx = Ctx::new(2).unwrap();
    for [rk, dr] in WIDTHS {
        let (c, r) = tokens(rk, dr);
        for kind in KINDS {
            for len in [0, 1, 63, 64, 65, 130, LEN] {
                // Tokens that would spoil everything, if anything read them.
                let mut cache = filled(&ctx, kind, &c, &r);
                cache.truncate(len);
                cache.append(&ctx, &vec![f32::NAN; 140 * rk], &vec![f32::NAN; 140 * dr]);
                cache.truncate(len);
                assert_eq!(cache.len(), len);
                cache.append(&ctx, &c.data()[..3 * rk], &r.data()[..3 * dr]);
                let mut fresh = Latents::new(kind, rk, dr);
                fresh.append(&ctx, &c.data()[..len * rk], &r.data()[..len * dr]);
                fresh.append(&ctx, &c.data()[..3 * rk], &r.data()[..3 * dr]);
                assert_eq!(content(&ctx, &cache), content(&ctx, &fresh), "{kind:?} cut at {len}");
                for precision in [Precision::F32, Precision::Bf16] {
                    let want = attend(&ctx, &fresh, precision);
                    assert!(want.iter().all(|x| f32::from_bits(*x).is_finite()));
                    assert_eq!(attend(&ctx, &cache, precision), want, "{kind:?} {precision:?} cut at {len}");
                }
            }
        }
    }
}

#[test]
fn a_clone_shares_until_it_is_written() {
    let ctx = Ctx::new(1).unwrap();
    let (rk, dr) = (70, 14);
    let (c, r) = tokens(rk, dr);
    for kind in KINDS {
        let original = filled(&ctx, kind, &c, &r);
        let before = content(&ctx, &original);
        let mut fork = original.clone();
        assert!(std::ptr::eq(fork.block(3), original.block(3)));
        fork.truncate(150);
        fork.append(&ctx, &c.data()[..rk], &r.data()[..dr]);
        assert!(std::ptr::eq(fork.block(1), original.block(1)), "whole blocks stay shared");
        assert!(!std::ptr::eq(fork.block(2), original.block(2)));
        assert_eq!(content(&ctx, &original), before);
    }
}

#[test]
fn numbers_at_the_ends_of_the_range_survive_eight_bits() {
    let ctx = Ctx::new(1).unwrap();
    for scale in [1e-37_f32, 1e-30, 1e-3, 1.0, 1e3, 1e30, 1e38] {
        let row: Vec<f32> = (0..130).map(|i| scale * (1.0 + i as f32 / 65.0)).collect();
        let mut cache = Latents::new(CacheKind::Fp8, 130, 1);
        cache.append(&ctx, &row, &[1.0]);
        let (c, _) = content(&ctx, &cache);
        for (x, got) in row.iter().zip(c) {
            let got = f32::from_bits(got);
            // The smallest factor is 2⁻¹¹⁷, with steps of 2⁻¹²⁶.
            let bound = (x / 16.0).max(2.0_f32.powi(-127));
            assert!((got - x).abs() <= bound, "{x:e} became {got:e}");
        }
    }
    // A number that is none spoils itself alone, and zeros stay zeros.
    let mut row = vec![0.0; 130];
    (row[1], row[2], row[3]) = (f32::NAN, f32::NEG_INFINITY, 3.0);
    let mut cache = Latents::new(CacheKind::Fp8, 130, 1);
    cache.append(&ctx, &row, &[f32::INFINITY]);
    let (c, r) = content(&ctx, &cache);
    let c: Vec<f32> = c.into_iter().map(f32::from_bits).collect();
    assert!(c[1].is_nan() && c[2].is_nan() && c[3] == 3.0 && c[4..].iter().all(|x| *x == 0.0));
    assert_eq!(f32::from_bits(r[0]), f32::INFINITY);
}

#[test]
fn a_block_is_read_back_bit_for_bit() {
    let ctx = Ctx::new(1).unwrap();
    let (c, r) = (random([100, 130], 1), random([100, 9], 2));
    for kind in KINDS {
        let cache = filled(&ctx, kind, &c, &r);
        let mut bytes = vec![7];
        cache.share(0).write_to(&mut bytes);
        assert_eq!(bytes.len(), 1 + cache.block_bytes());
        let mut again = Latents::new(kind, 130, 9);
        again.push(&again.restore(&bytes[1..]).unwrap());
        let mut first = cache.clone();
        first.truncate(64);
        assert!(content(&ctx, &again) == content(&ctx, &first), "{kind:?}");
        let mut bytes_again = Vec::new();
        again.share(0).write_to(&mut bytes_again);
        assert!(bytes_again == bytes[1..], "{kind:?}");
        assert!(again.restore(&bytes).is_none() && again.restore(&bytes[2..]).is_none());
    }
}

#[test]
fn a_token_takes_what_its_kind_says() {
    let bytes = KINDS.map(|kind| Latents::new(kind, 512, 64).bytes_per_token());
    assert_eq!(bytes, [4 * 576, 2 * 576, 512 + 2 * 64 + 4]);
}

#[test]
#[should_panic(expected = "are no rows of 20 and 6")]
fn rows_that_do_not_fit_are_refused() {
    Latents::new(CacheKind::Bf16, 20, 6).append(&Ctx::new(1).unwrap(), &[0.0; 40], &[0.0; 6]);
}

#[test]
#[should_panic(expected = "does not hold the 3 keys")]
fn a_cache_that_is_too_short_is_refused() {
    let ctx = Ctx::new(1).unwrap();
    let mut cache = Latents::new(CacheKind::Bf16, 20, 6);
    cache.append(&ctx, &[0.0; 40], &[0.0; 12]);
    let query = Query { cache: &cache, rows: 0..1, first_position: 2 };
    let dims = Dims { heads: 2, dn: 4, dr: 6, dv: 4 };
    let (q_latent, q) = (random([1, 40], 1), random([1, 20], 2));
    forward(&ctx, &q_latent, &q, &[query], dims, 1.0, Precision::Bf16);
}
