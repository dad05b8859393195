use tensor::{Ctx, Rng, Storage, Tensor, bf16};

use super::{backward_weight, cases, forward, reference};
use crate::check::{close, close_gradient, f64s, levels, numeric_gradient, random};

fn ids(t: usize, v: usize) -> Vec<u32> {
    let mut rng = Rng::new(0, "test", 9);
    (0..t).map(|_| rng.below(v as u64) as u32).collect()
}

#[test]
fn reference_gradient_is_that_of_the_reference() {
    let ids = [2, 0, 2, 3];
    let (w, dy) = (f64s(&random([5, 3], 1)), f64s(&random([4, 3], 2)));
    let loss = |w: &[f64]| reference::forward(&ids, w, 3).iter().zip(&dy).map(|(x, dy)| x * dy).sum();
    close_gradient("dw", &reference::backward_weight(&ids, &dy, 5, 3), &numeric_gradient(&w, loss));
}

#[test]
fn every_level_agrees_with_the_reference_and_with_one_thread() {
    let one = Ctx::new(1).unwrap();
    for ctx in levels() {
        for &[t, v, d] in cases::EXACT {
            let (ids, w, dy) = (ids(t, v), random([v, d], 1), random([t, d], 2));
            let w64 = f64s(&w);
            let x = forward(&ctx, &ids, &Storage::F32(w));
            assert_eq!(f64s(&x), reference::forward(&ids, &w64, d));
            let (mut dw, mut again) = (ctx.zeros([v, d]), one.zeros([v, d]));
            backward_weight(&ctx, &ids, &dy, &mut dw);
            close("dw", dw.data(), &reference::backward_weight(&ids, &f64s(&dy), v, d), cases::TOLERANCE);
            backward_weight(&one, &ids, &dy, &mut again);
            assert_eq!(dw.data(), again.data());
        }
    }
}

#[test]
fn backward_adds_to_what_is_there() {
    let ctx = Ctx::new(2).unwrap();
    let mut dw = Tensor::from_vec(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [3, 2]);
    let dy = Tensor::from_vec(vec![10.0, 20.0, 30.0, 40.0], [2, 2]);
    backward_weight(&ctx, &[2, 2], &dy, &mut dw);
    assert_eq!(dw.data(), [1.0, 2.0, 3.0, 4.0, 45.0, 66.0]);
}

#[test]
fn bf16_rows_come_back_as_their_f32_values() {
    let ctx = Ctx::new(1).unwrap();
    let w: Vec<bf16> = [0.5, -1.0, 2.25, 3.0].iter().map(|&x| bf16::from_f32(x)).collect();
    let w = Storage::bf16(w, [2, 2]);
    assert_eq!(forward(&ctx, &[1, 0], &w).data(), [2.25, 3.0, 0.5, -1.0]);
}

#[test]
fn no_ids_give_no_rows() {
    let ctx = Ctx::new(1).unwrap();
    let w = Storage::F32(random([4, 3], 1));
    assert_eq!(forward(&ctx, &[], &w).dims(), [0, 3]);
    backward_weight(&ctx, &[], &Tensor::from_vec(vec![], [0, 3]), &mut ctx.zeros([4, 3]));
}

#[test]
#[should_panic(expected = "embedding: id Some(4) is not below the 4 rows")]
fn an_id_beyond_the_rows_is_a_bug() {
    forward(&Ctx::new(1).unwrap(), &[0, 4], &Storage::F32(random([4, 3], 1)));
}
