use tensor::{Ctx, Tensor};

use super::Plan;

impl Plan {
    /// Numbers `[T, K]` that belong to choices, in the order of the sorted rows: `[T · K]`.
    pub fn sort(&self, ctx: &Ctx, values: &Tensor) -> Tensor {
        assert_eq!(values.len(), self.rows(), "permute: values {values:?} do not fit a plan of {} rows", self.rows());
        let mut sorted = ctx.empty([self.rows()]);
        let out = sorted.data_mut();
        for (x, &row) in values.data().iter().zip(&self.position) {
            out[row as usize] = *x;
        }
        sorted
    }

    /// Numbers `[T · K]` that belong to sorted rows, back in the order of the choices: `[T, K]`.
    pub fn unsort(&self, ctx: &Ctx, sorted: &Tensor) -> Tensor {
        assert_eq!(sorted.len(), self.rows(), "permute: values {sorted:?} do not fit a plan of {} rows", self.rows());
        let mut values = ctx.empty([self.tokens(), self.num_experts_per_tok]);
        for (x, &row) in values.data_mut().iter_mut().zip(&self.position) {
            *x = sorted.data()[row as usize];
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::random;

    #[test]
    fn sorting_follows_the_plan_and_can_be_undone() {
        let ctx = Ctx::new(1).unwrap();
        // Two tokens, two choices each: experts (0, 2) and (0, 1).
        let plan = Plan::new(&[0, 2, 0, 1], 2, 2, 3);
        let values = random([2, 2], 1);
        let [a, b, c, d] = *values.data() else { unreachable!("four values") };
        let sorted = plan.sort(&ctx, &values);
        assert_eq!(sorted.data(), [a, c, d, b]);
        assert_eq!(plan.unsort(&ctx, &sorted).data(), values.data());
    }
}
