//! `cargo bench -p ops [-- NAME..]`: the rows of every operation, or those that are named, with one thread and with all.
//! `hadal bench kernels` prints the same.

use ops::bench::{Row, run};
use ops::machine::Rates;
use tensor::Ctx;

fn main() {
    let names: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    for threads in [1, 0] {
        let ctx = Ctx::new(threads).expect("compute threads");
        let begin = |limits: &Rates| {
            println!("\n{} threads, {:?}, {limits}\n{}", ctx.threads(), ctx.isa.level(), Row::heading());
        };
        run(&ctx, &names, begin, |row, limits| println!("{}", row.line(limits)));
    }
}
