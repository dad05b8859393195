use tensor::Tensor;

use super::{add, cases, reference, sum};
use crate::check::{close, f64s, levels, random};

#[test]
fn every_level_agrees_with_the_reference() {
    for ctx in levels() {
        for &[t, d] in cases::EXACT {
            let (x, y) = (random([t, d], 1), random([t, d], 2));
            let mut grown = Tensor::from_vec(x.data().to_vec(), [t, d]);
            add(&ctx, &mut grown, &y);
            close("x", grown.data(), &reference::add(&f64s(&x), &f64s(&y)), cases::TOLERANCE);
            assert_eq!(sum(&ctx, &x, &y).data(), grown.data());
        }
    }
}
