use tensor::Ctx;

use super::{Angles, Layout, Yarn, backward, cases, forward, reference};
use crate::check::{close, close_gradient, f64s, levels, numeric_gradient, random};

const LAYOUTS: [Layout; 2] = [Layout::Interleaved, Layout::Half];

fn yarn(factor: f64, beta_fast: f64, beta_slow: f64, mscale: f64, mscale_all_dim: f64) -> Yarn {
    Yarn {
        factor,
        original_max_position_embeddings: 4096.0,
        beta_fast,
        beta_slow,
        mscale: Some(mscale),
        mscale_all_dim: Some(mscale_all_dim),
        attention_factor: None,
        truncate: true,
    }
}

fn bits(angles: &Angles) -> Vec<u32> {
    angles.inv_freq.iter().map(|f| f.to_bits()).collect()
}

/// Frequencies of DeepSeek-V3, R1, V3.1, V2 and V2-Lite, as Hugging Face transformers computes them.
#[rustfmt::skip]
const V3: [u32; 32] = [
    0x3f80_0000, 0x3f3f_f911, 0x3f0f_f59a, 0x3ed7_e89b, 0x3ea1_e89b, 0x3e72_d423, 0x3e36_1887, 0x3e08_8d77,
    0x3dcc_cccd, 0x3d99_940d, 0x3d66_55c2, 0x3d1f_c5ba, 0x3cdc_321b, 0x3c96_8dc3, 0x3c4b_f283, 0x3c08_8d77,
    0x3bb4_3959, 0x3b69_7066, 0x3b13_6a16, 0x3ab3_a2cd, 0x3a4f_3e37, 0x39d9_9312, 0x393a_7753, 0x380b_d471,
    0x37d1_b717, 0x379d_43a3, 0x376b_dcf0, 0x3730_df51, 0x3704_a2b3, 0x36c6_ecdd, 0x3695_2c42, 0x365f_ba4f,
];

/// The same for theta 10000 without scaling.
#[rustfmt::skip]
const PLAIN: [u32; 32] = [
    0x3f80_0000, 0x3f3f_f911, 0x3f0f_f59a, 0x3ed7_e89b, 0x3ea1_e89b, 0x3e72_d423, 0x3e36_1887, 0x3e08_8d77,
    0x3dcc_cccd, 0x3d99_940d, 0x3d66_55c2, 0x3d2c_ba15, 0x3d01_86e3, 0x3cc2_434f, 0x3c91_ad39, 0x3c5a_7bf2,
    0x3c23_d70a, 0x3bf5_b9b0, 0x3bb8_449c, 0x3b8a_2e77, 0x3b4f_3e38, 0x3b1b_690d, 0x3ae9_1528, 0x3aae_c98e,
    0x3a83_126f, 0x3a44_948c, 0x3a13_6a16, 0x39dd_1725, 0x39a5_cb60, 0x3978_a815, 0x393a_7753, 0x390b_d472,
];

/// The same for theta 50000 without scaling: Moonlight, and below the blend Kimi-K2.
#[rustfmt::skip]
const THETA_50000: [u32; 32] = [
    0x3f80_0000, 0x3f36_8e73, 0x3f02_2edb, 0x3eb9_ab7f, 0x3e84_673d, 0x3e3c_d623, 0x3e06_a951, 0x3dc0_0e9b,
    0x3d88_f541, 0x3d43_5523, 0x3d0b_4b37, 0x3cc6_a9f7, 0x3c8d_ab61, 0x3c4a_0d56, 0x3c10_15e9, 0x3bcd_7f82,
    0x3b92_8aff, 0x3b51_00b8, 0x3b15_0acf, 0x3ad4_913c, 0x3a97_9588, 0x3a58_314f, 0x3a1a_2b5b, 0x39db_e137,
    0x399c_cc77, 0x395f_a138, 0x391f_790d, 0x38e3_7198, 0x38a2_3151, 0x3867_52a0, 0x3824_f575, 0x37eb_4496,
];

#[test]
fn frequencies_are_those_of_the_released_models() {
    assert_eq!(bits(&Angles::new(64, 10_000.0, Some(&yarn(40.0, 32.0, 1.0, 1.0, 1.0)))), V3);
    assert_eq!(bits(&Angles::new(64, 10_000.0, None)), PLAIN);
    assert_eq!(bits(&Angles::new(64, 50_000.0, None)), THETA_50000);
    for factor in [32.0, 64.0] {
        // With both betas 1 the blend is a step between pairs 19 and 20.
        let kimi = Angles::new(64, 50_000.0, Some(&yarn(factor, 1.0, 1.0, 1.0, 1.0)));
        let divided = THETA_50000.iter().enumerate().map(|(i, &bits)| {
            let f = f32::from_bits(bits);
            if i < 20 { bits } else { (f / factor as f32).to_bits() }
        });
        assert_eq!(bits(&kimi), divided.collect::<Vec<_>>());
    }
}

#[test]
fn factors_follow_the_magnitudes() {
    let v3 = Angles::new(64, 10_000.0, Some(&yarn(40.0, 32.0, 1.0, 1.0, 1.0)));
    assert_eq!((v3.factor, v3.softmax_mscale), (1.0, 1.368_887_945_411_393_6));
    let lite = Angles::new(64, 10_000.0, Some(&yarn(40.0, 32.0, 1.0, 0.707, 0.707)));
    assert!((lite.softmax_mscale - 1.260_803_777_4).abs() < 1e-10);
    let plain = Angles::new(64, 10_000.0, None);
    assert_eq!((plain.factor, plain.softmax_mscale), (1.0, 1.0));
    // Unequal strengths, none at all, and a factor that is given.
    let m = |strength: f64| 0.1 * strength * 40.0_f64.ln() + 1.0;
    let of = |y: &Yarn| Angles::new(64, 10_000.0, Some(y));
    let unequal = yarn(40.0, 32.0, 1.0, 1.0, 0.707);
    assert_eq!(of(&unequal).factor, m(1.0) / m(0.707));
    let absent = Yarn { mscale: None, mscale_all_dim: None, ..unequal.clone() };
    assert_eq!((of(&absent).factor, of(&absent).softmax_mscale), (m(1.0), 1.0));
    let zero = Yarn { mscale: Some(0.0), mscale_all_dim: Some(0.0), ..unequal.clone() };
    assert_eq!((of(&zero).factor, of(&zero).softmax_mscale), (m(1.0), 1.0));
    assert_eq!(of(&Yarn { attention_factor: Some(0.5), ..unequal }).factor, 0.5);
    assert_eq!(of(&yarn(1.0, 32.0, 1.0, 1.0, 1.0)).softmax_mscale, 1.0);
}

#[test]
fn without_truncation_the_blend_starts_and_ends_between_pairs() {
    let smooth = Yarn { truncate: false, ..yarn(40.0, 32.0, 1.0, 1.0, 1.0) };
    let inv_freq = Angles::new(64, 10_000.0, Some(&smooth)).inv_freq;
    // The blend reaches from 10.47 to 22.51 instead of from 10 to 23.
    for (i, (f, plain)) in inv_freq.iter().zip(PLAIN.map(f32::from_bits)).enumerate() {
        let ramp = ((i as f64 - 10.472_240_8) / (22.513_440_6 - 10.472_240_8)).clamp(0.0, 1.0);
        let want = f64::from(plain) * (ramp / 40.0 + 1.0 - ramp);
        assert!((f64::from(*f) - want).abs() < 1e-6 * want, "pair {i}: {f} instead of {want}");
    }
}

#[test]
fn angles_are_f32_products() {
    let angles = Angles::new(64, 10_000.0, Some(&yarn(40.0, 32.0, 1.0, 1.0, 0.707)));
    let position = 131_071;
    let table = angles.table(&Ctx::new(1).unwrap(), &[0, position]);
    let factor = angles.factor as f32;
    for i in 0..32 {
        let angle = f64::from(position as f32 * angles.inv_freq[i]);
        assert_eq!(table.cos.row(1)[i], angle.cos() as f32 * factor);
        assert_eq!(table.sin.row(1)[i], angle.sin() as f32 * factor);
        assert_eq!((table.cos.row(0)[i], table.sin.row(0)[i]), (factor, 0.0));
    }
}

#[test]
fn reference_gradient_is_that_of_the_reference() {
    let (x, dy) = (f64s(&random([2, 18], 1)), f64s(&random([2, 18], 2)));
    let angle = [0.3, 1.1, -0.4, 2.5];
    for layout in LAYOUTS {
        let loss =
            |x: &[f64]| reference::forward(x, 18, 9, 3, &angle, layout).iter().zip(&dy).map(|(y, dy)| y * dy).sum();
        let dx = reference::backward(&dy, 18, 9, 3, &angle, layout);
        close_gradient("dx", &dx, &numeric_gradient(&x, loss));
    }
}

#[test]
fn every_level_agrees_with_the_reference() {
    for ctx in levels() {
        for &[t, heads, head_dim, offset, dr] in cases::EXACT {
            let width = heads * head_dim;
            let x = random([t, width], 1);
            let positions: Vec<u32> = (0..t as u32).map(|i| 1000 - 7 * i).collect();
            let angles = Angles::new(dr, 10_000.0, None);
            let table = angles.table(&ctx, &positions);
            let exact: Vec<f64> =
                positions.iter().flat_map(|&p| angles.inv_freq.iter().map(move |f| f64::from(p as f32 * f))).collect();
            for layout in LAYOUTS {
                let want = reference::forward(&f64s(&x), width, head_dim, offset, &exact, layout);
                let (mut y, mut dx) = (random([t, width], 1), random([t, width], 1));
                forward(&ctx, &mut y, head_dim, offset, &table, layout);
                close("y", y.data(), &want, cases::TOLERANCE);
                let want = reference::backward(&f64s(&x), width, head_dim, offset, &exact, layout);
                backward(&ctx, &mut dx, head_dim, offset, &table, layout);
                close("dx", dx.data(), &want, cases::TOLERANCE);
            }
        }
    }
}

#[test]
fn levels_and_threads_give_the_same_bits() {
    let positions: Vec<u32> = (0..70).collect();
    let angles = Angles::new(62, 10_000.0, None);
    for layout in LAYOUTS {
        let run = |ctx: &Ctx| {
            let mut x = random([70, 200], 1);
            forward(ctx, &mut x, 100, 37, &angles.table(ctx, &positions), layout);
            x.data().to_vec()
        };
        let want = run(&Ctx::new(1).unwrap());
        for ctx in levels() {
            assert_eq!(run(&ctx), want);
        }
    }
}
