use tensor::{Ctx, Tensor};
use testkit::*;
#[test]
fn stats() {
    let ctx = Ctx::new(2).unwrap();
    for g in goldens() {
        let m = g.model(); let ids = g.input_ids();
        let tr = m.trace(&ctx, &ids, true);
        let tail = |t: &Tensor, len: usize| t.data()[t.len() - len..].to_vec();
        let mut line = format!("{:16}", g.name);
        let mut ck = |what: &str, t: &Tensor| { let (w,_) = g.floats(what).unwrap(); let d = max_difference(&tail(t, w.len()), &w); let b = 1e-5 * (max_abs(&w)/4.0).max(1.0); line += &format!(" {what} {:.2}({:.1e})", d/b, d); };
        ck("logits", &tr.logits); ck("final_norm", &tr.final_norm);
        for (i,h) in tr.hidden.iter().enumerate() { ck(&format!("hidden.{i}"), h); }
        for (k,(h,l)) in tr.mtp.iter().enumerate() { ck(&format!("mtp.{k}.hidden"), h); ck(&format!("mtp.{k}.logits"), l); }
        println!("{line}");
    }
}
