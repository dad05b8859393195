//! Attention against a cache of latents: prompts in direct form, decoding in the absorbed one.

use std::ops::Range;
use std::slice;

use ops::mla_decode::Latents;
use ops::{mla_attention, mla_decode, rope};
use tensor::{Ctx, Tensor};

use super::{Mla, Query};
use crate::CacheKind;
use crate::infer::{Form, rows_of};
use crate::linear;
use crate::params::Params;
use crate::recompute::Recompute;

/// Keys and values that prefill expands at a time. Up to some thousand tokens this is all heads, and beyond them a head has
/// work for many threads.
const EXPANDED_BYTES: usize = 512 << 20;

/// Latents that prefill reads back of several sequences at a time; those of one may take more.
const READ_BYTES: usize = 64 << 20;

impl Mla {
    /// An empty cache: `c [rk]` and `r [dr]` a token, what later tokens need of earlier ones.
    pub fn new_cache(&self, kind: CacheKind) -> Latents {
        Latents::new(kind, self.kv_lora_rank, self.dims.dr)
    }

    /// New tokens of several sequences against their caches, to which they are appended; `x` is `[T, D]`, normalised, the rows
    /// of sequence `i` being `rows[i]`, one after the other.
    ///
    /// For the direct form keys and values of the whole sequences are made of their latents again.
    pub fn prefill(
        &self,
        ctx: &Ctx,
        p: &Params,
        x: &Tensor,
        angles: &rope::CosSin,
        rows: &[Range<usize>],
        caches: &mut [&mut Latents],
        form: Form,
    ) -> Tensor {
        let (q, _) = self.queries(ctx, p, x, angles, Recompute::ALL);
        let (latent, _, _, rope_key) = self.latents(ctx, p, x, angles);
        let first_positions = append(ctx, &latent, &rope_key, rows, caches);
        let is_short = |(rows, &first): (&Range<usize>, &usize)| first > 0 && rows.len() < self.direct_from();
        let o = if form == Form::Cheapest && rows.iter().zip(&first_positions).all(is_short) {
            self.absorbed(ctx, p, &q, &queries_of(rows, caches, &first_positions))
        } else {
            self.read_back(ctx, p, &q, rows, caches, READ_BYTES)
        };
        self.o_proj.forward(ctx, p, &o)
    }

    /// Appends to the caches what [`Mla::prefill`] would, bit for bit, and computes nothing else.
    pub fn remember(
        &self,
        ctx: &Ctx,
        p: &Params,
        x: &Tensor,
        angles: &rope::CosSin,
        rows: &[Range<usize>],
        caches: &mut [&mut Latents],
    ) {
        let (latent, _, _, rope_key) = self.latents(ctx, p, x, angles);
        append(ctx, &latent, &rope_key, rows, caches);
    }

    /// New tokens of several sequences against their caches, in absorbed form; `x` is `[T, D]`, normalised, the rows of
    /// sequence `i` being `rows[i]`. Appends to the caches.
    pub fn decode(
        &self,
        ctx: &Ctx,
        p: &Params,
        x: &Tensor,
        angles: &rope::CosSin,
        rows: &[Range<usize>],
        caches: &mut [&mut Latents],
    ) -> Tensor {
        let (mut q, a) = match &self.query {
            Query::Direct { q_proj } => {
                let [q, a] = linear::decode_beside(ctx, p, [q_proj, &self.kv_a_proj_with_mqa], x);
                (q, a)
            }
            Query::Compressed { q_a_proj, q_a_layernorm, q_b_proj } => {
                let [q_a, a] = linear::decode_beside(ctx, p, [q_a_proj, &self.kv_a_proj_with_mqa], x);
                let (cq, _) = q_a_layernorm.forward(ctx, p, &q_a);
                (q_b_proj.decode(ctx, p, &cq), a)
            }
        };
        self.rotate_queries(ctx, &mut q, angles);
        let (latent, _, _, rope_key) = self.split_latents(ctx, p, &a, angles);
        let first_positions = append(ctx, &latent, &rope_key, rows, caches);
        let o = self.absorbed(ctx, p, &q, &queries_of(rows, caches, &first_positions));
        self.o_proj.decode(ctx, p, &o)
    }

    /// From how many new tokens on the direct form needs fewer multiplications than the absorbed one, after whatever
    /// number of earlier tokens: to expand a latent costs `H (dn + dv) rk`, and then each pair of query and key saves
    /// `H (2 rk - dn - dv)` (`spec/model.md` 2.7).
    fn direct_from(&self) -> usize {
        let mla_attention::Dims { dn, dv, .. } = self.dims;
        let rk = self.kv_lora_rank;
        match (2 * rk).checked_sub(dn + dv) {
            None | Some(0) => usize::MAX,
            Some(saved) => ((dn + dv) * rk).div_ceil(saved),
        }
    }

    /// `o [T, H dv]` of rotated queries `q [T, H (dn + dr)]` of some sequences, against the latents that their caches hold: of as
    /// many of them at a time as have `read_bytes` of latents, but of at least one.
    fn read_back(
        &self,
        ctx: &Ctx,
        p: &Params,
        q: &Tensor,
        rows: &[Range<usize>],
        caches: &[&mut Latents],
        read_bytes: usize,
    ) -> Tensor {
        let mla_attention::Dims { heads, dr, dv, .. } = self.dims;
        let most = read_bytes / ((self.kv_lora_rank + dr) * size_of::<f32>());
        let mut o: Option<Tensor> = None;
        let mut first = 0;
        while first < rows.len() {
            let (start, mut end) = (rows[first].start, first);
            let (mut q_offsets, mut k_offsets, mut keys) = (vec![0], vec![0], 0);
            while end < rows.len() && (end == first || keys + caches[end].len() <= most) {
                keys += caches[end].len();
                q_offsets.push(rows[end].end - start);
                k_offsets.push(keys);
                end += 1;
            }
            let (mut latent, mut rope_key) = (ctx.empty([keys, self.kv_lora_rank]), ctx.empty([keys, dr]));
            for (cache, keys) in caches[first..end].iter().zip(k_offsets.windows(2)) {
                let c = &mut latent.data_mut()[keys[0] * self.kv_lora_rank..keys[1] * self.kv_lora_rank];
                cache.read(ctx, 0..cache.len(), c, &mut rope_key.data_mut()[keys[0] * dr..keys[1] * dr]);
            }
            let chunks = mla_attention::Chunks { q_offsets: &q_offsets, k_offsets: &k_offsets };
            if end - first == rows.len() {
                return self.direct(ctx, p, q, &latent, &rope_key, chunks, EXPANDED_BYTES);
            }
            let part = start..rows[end - 1].end;
            let q = rows_of(ctx, q, slice::from_ref(&part));
            let of_part = self.direct(ctx, p, &q, &latent, &rope_key, chunks, EXPANDED_BYTES);
            let o = o.get_or_insert_with(|| ctx.empty([rows[rows.len() - 1].end, heads * dv]));
            o.data_mut()[part.start * heads * dv..part.end * heads * dv].copy_from_slice(of_part.data());
            first = end;
        }
        o.expect("there is a sequence")
    }

    /// `o [T, H dv]` of rotated queries `q [T, H (dn + dr)]`, those of each sequence being the last of the tokens of it that
    /// `latent [S, rk]` and `rope_key [S, dr]` are of. Keys and values are there for some heads at a time, as many as fit
    /// `expanded_bytes`, but at least one: those of all 128 heads of the published model would take 16 GiB at 128K tokens.
    fn direct(
        &self,
        ctx: &Ctx,
        p: &Params,
        q: &Tensor,
        latent: &Tensor,
        rope_key: &Tensor,
        chunks: mla_attention::Chunks<'_>,
        expanded_bytes: usize,
    ) -> Tensor {
        let mla_attention::Dims { heads, dn, dv, .. } = self.dims;
        let ([t, _], [keys, _]) = (q.dims(), latent.dims());
        let wave = (expanded_bytes / (keys * (dn + dv) * size_of::<f32>()).max(1)).max(1);
        let mut o = ctx.empty([t, heads * dv]);
        for first in (0..heads).step_by(wave) {
            let wave = first..heads.min(first + wave);
            let rows = wave.start * (dn + dv)..wave.end * (dn + dv);
            let kv = self.kv_b_proj.forward_rows(ctx, p, latent, rows);
            let (dims, scale) = (self.dims, self.scale);
            mla_attention::forward_chunks(ctx, q, &kv, rope_key, chunks, wave, dims, scale, p.precision, &mut o);
        }
        o
    }

    /// `o [T, H dv]` of rotated queries `q [T, H (dn + dr)]`, over the latents themselves.
    fn absorbed(&self, ctx: &Ctx, p: &Params, q: &Tensor, queries: &[mla_decode::Query<'_>]) -> Tensor {
        let kv_b = &p[self.kv_b_proj.weight];
        let q_latent = mla_decode::absorb(ctx, q, kv_b, self.dims, p.precision);
        let u = mla_decode::forward(ctx, &q_latent, q, queries, self.dims, self.scale, p.precision);
        mla_decode::expand(ctx, &u, kv_b, self.dims, p.precision)
    }
}

/// Appends the rows of each sequence to its cache. The result is where each begins.
fn append(
    ctx: &Ctx,
    latent: &Tensor,
    rope_key: &Tensor,
    rows: &[Range<usize>],
    caches: &mut [&mut Latents],
) -> Vec<usize> {
    let first_positions = caches.iter().map(|cache| cache.len()).collect();
    for (cache, rows) in caches.iter_mut().zip(rows) {
        cache.append(ctx, part(latent, rows), part(rope_key, rows));
    }
    first_positions
}

/// The rows of each sequence as queries against its cache.
fn queries_of<'a>(
    rows: &[Range<usize>],
    caches: &'a [&mut Latents],
    first_positions: &[usize],
) -> Vec<mla_decode::Query<'a>> {
    let query = |((cache, rows), &first_position): ((&'a &mut Latents, &Range<usize>), &usize)| mla_decode::Query {
        cache,
        rows: rows.clone(),
        first_position,
    };
    caches.iter().zip(rows).zip(first_positions).map(query).collect()
}

/// Some rows of `x`.
fn part<'a>(x: &'a Tensor, rows: &Range<usize>) -> &'a [f32] {
    let [_, width] = x.dims();
    &x.data()[rows.start * width..rows.end * width]
}

#[cfg(test)]
mod tests {
    use config::presets;

    use super::*;
    use crate::Model;

    fn values(rows: usize, width: usize) -> Tensor {
        let at = |i: usize| ((i * 37 % 101) as f32 - 50.0) / 50.0;
        Tensor::from_vec((0..rows * width).map(at).collect(), [rows, width])
    }

    #[test]
    fn sequences_that_are_read_in_groups_have_the_bits_of_all_at_once() {
        let model = Model::random(&presets::preset("tiny").unwrap(), 0.15, 4);
        let (ctx, mla) = (Ctx::new(2).unwrap(), &model.blocks[0].self_attn);
        let mla_attention::Dims { heads, dn, dr, .. } = mla.dims;
        let lens = [70, 3, 20, 1, 40];
        let mut caches: Vec<Latents> = lens.iter().map(|_| mla.new_cache(CacheKind::F32)).collect();
        for (cache, len) in caches.iter_mut().zip(lens) {
            cache.append(&ctx, values(len, mla.kv_lora_rank).data(), values(len, dr).data());
        }
        let rows = [0..5, 5..8, 8..9, 9..10, 10..30];
        let q = values(30, heads * (dn + dr));
        let caches: Vec<&mut Latents> = caches.iter_mut().collect();
        let read = |tokens: usize| {
            let bytes = tokens * (mla.kv_lora_rank + dr) * 4;
            mla.read_back(&ctx, &model.params, &q, &rows, &caches, bytes)
        };
        let want = read(134);
        for tokens in [0, 23, 60, 133] {
            assert_eq!(read(tokens).data(), want.data(), "{tokens} tokens at a time");
        }
    }

    #[test]
    fn heads_in_waves_give_the_bits_of_all_at_once() {
        let model = Model::random(&presets::preset("tiny").unwrap(), 0.15, 4);
        let (ctx, mla) = (Ctx::new(2).unwrap(), &model.blocks[0].self_attn);
        let mla_attention::Dims { heads, dn, dr, dv } = mla.dims;
        let (q, latent, rope_key) = (values(9, heads * (dn + dr)), values(30, mla.kv_lora_rank), values(30, dr));
        let chunks = mla_attention::Chunks { q_offsets: &[0, 9], k_offsets: &[0, 30] };
        let direct = |bytes| mla.direct(&ctx, &model.params, &q, &latent, &rope_key, chunks, bytes);
        let want = direct(usize::MAX);
        for heads_at_once in [1, 3] {
            let bytes = heads_at_once * 30 * (dn + dv) * 4;
            assert_eq!(direct(bytes).data(), want.data(), "{heads_at_once} of {heads} heads at once");
        }
        assert_eq!(direct(0).data(), want.data());
    }
}
