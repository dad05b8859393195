use tensor::{Ctx, Tensor};

use super::{cases, concat, reference, split};
use crate::check::{f64s, levels, random};

#[test]
fn both_agree_with_the_reference_and_undo_each_other() {
    for ctx in levels() {
        for &[t, wa, wb] in cases::EXACT {
            let x = random([t, wa + wb], 1);
            let (a, b) = split(&ctx, &x, wa);
            assert_eq!((a.dims(), b.dims()), ([t, wa], [t, wb]));
            assert_eq!((f64s(&a), f64s(&b)), reference::split(&f64s(&x), wa, wb));
            let joined = concat(&ctx, &a, &b);
            assert_eq!(joined.data(), x.data());
            assert_eq!(f64s(&joined), reference::concat(&f64s(&a), &f64s(&b), wa, wb));
        }
    }
}

#[test]
fn no_rows_give_no_rows() {
    let ctx = Ctx::new(2).unwrap();
    let (a, b) = split(&ctx, &Tensor::from_vec(vec![], [0, 3]), 1);
    assert_eq!((a.dims(), b.dims()), ([0, 1], [0, 2]));
    assert_eq!(concat(&ctx, &a, &b).dims(), [0, 3]);
}
