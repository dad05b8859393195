//! Parameters, FLOPs and bytes from the config alone.
//!
//! One table lists every kind of tensor a checkpoint of the config has; every count is a sum over it, so the counts
//! cannot disagree with each other.

mod decode;

use serde::Serialize;

pub use decode::{DecodeBytes, PartBytes};

use crate::model::{ModelConfig, ModelFields, QuantizationConfig, TopkMethod, WeightPart};

/// What a model of this config weighs and costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Counts {
    /// Parameters.
    pub parameters: Parameters,
    /// Floating point operations per token.
    pub flops_per_token: Flops,
    /// Size of a checkpoint, by how its weights are stored.
    pub checkpoint: Checkpoint,
    /// Attention cache.
    pub kv_cache: KvCache,
}

/// Parameter counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Parameters {
    /// The main model.
    pub main: u64,
    /// The main model by part; the parts add up to `main`.
    pub parts: Parts,
    /// All MTP layers, their copies of embedding and head left out.
    pub mtp: u64,
    /// All MTP layers as a released checkpoint holds them, copies included.
    pub mtp_with_copies: u64,
    /// Parameters of the main model that one token uses.
    pub active: Active,
}

/// The main model by part.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Parts {
    /// The embedding table.
    pub embedding: u64,
    /// Attention with its two latent norms and biases.
    pub attention: u64,
    /// FFNs of the dense layers.
    pub dense_ffn: u64,
    /// Routed experts.
    pub routed_experts: u64,
    /// Shared experts.
    pub shared_experts: u64,
    /// Router weights and correction biases.
    pub router: u64,
    /// Norms of width `D`.
    pub norms: u64,
    /// The head; 0 when it is the embedding.
    pub head: u64,
}

/// Parameters one token uses, by the three conventions in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Active {
    /// Embedding table and head included: the "37B" of V3.
    pub with_embedding_and_head: u64,
    /// Without the embedding table, of which a token reads one row. The matrices a token is multiplied with.
    pub without_embedding: u64,
    /// Without embedding table and head.
    pub without_embedding_and_head: u64,
}

/// Floating point operations per token, a multiply-add counting as two, for a sequence of `seq_len`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Flops {
    /// Sequence length the attention terms are for.
    pub seq_len: u64,
    /// One forward pass, causal attention (a token sees half the sequence on average).
    pub forward: u128,
    /// Forward and backward, causal: three times `forward`. Excludes MTP and recomputation.
    pub training: u128,
    /// As `training`, counting masked scores as well.
    pub training_non_causal: u128,
    /// What training all MTP layers adds, their use of the head included, causal.
    pub training_mtp: u128,
}

/// Checkpoint sizes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Checkpoint {
    /// As released: E4M3 linears with F32 block scales, the rest BF16, correction biases F32.
    pub fp8: Storage,
    /// BF16, correction biases F32.
    pub bf16: Storage,
    /// F32 throughout.
    pub f32: Storage,
}

/// Tensors and bytes of one layout; MTP layers with their copies are included unless the name says `main`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Storage {
    /// All tensors, scales included.
    pub tensors: u64,
    /// Tensors of E4M3 codes.
    pub tensors_f8: u64,
    /// Tensors of F32, scales included.
    pub tensors_f32: u64,
    /// Tensors of BF16.
    pub tensors_bf16: u64,
    /// Elements, scales included.
    pub elements: u64,
    /// Bytes of all tensors, without file headers.
    pub bytes: u64,
    /// Bytes of the main model's tensors.
    pub bytes_main: u64,
}

/// Attention cache of one token: the latent and the rotated key of every layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KvCache {
    /// Elements per token and layer.
    pub elements_per_layer: u64,
    /// Bytes per token in BF16, main layers.
    pub bytes_bf16: u64,
    /// Bytes per token in BF16, MTP layers included.
    pub bytes_bf16_with_mtp: u64,
    /// Bytes per token in F32, main layers.
    pub bytes_f32: u64,
    /// Bytes per token in BF16 if keys and values of every head were kept, for comparison.
    pub bytes_bf16_per_head: u64,
}

impl Counts {
    /// Counts of `config`; the attention terms of the FLOPs are for sequences of `seq_len` tokens.
    pub fn of(config: &ModelConfig, seq_len: u32) -> Self {
        let tensors = tensors(config);
        Self {
            parameters: parameters(config, &tensors),
            flops_per_token: flops(config, &tensors, u64::from(seq_len)),
            checkpoint: Checkpoint {
                fp8: storage(&tensors, Layout::Fp8),
                bf16: storage(&tensors, Layout::Bf16),
                f32: storage(&tensors, Layout::F32),
            },
            kv_cache: kv_cache(config),
        }
    }
}

/// What a tensor belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Embedding,
    Attention,
    DenseFfn,
    RoutedExperts,
    SharedExperts,
    Router,
    Norms,
    Head,
    /// `eh_proj`, which only MTP layers have.
    Projection,
    /// An MTP layer's copy of the embedding.
    EmbeddingCopy,
    /// An MTP layer's copy of the head.
    HeadCopy,
}

/// How a released FP8 checkpoint stores a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Quantised, with block scales beside it.
    Linear,
    /// Never quantised.
    Plain,
    /// F32 in every layout.
    AlwaysF32,
}

/// `copies` tensors of one shape. A vector is one row.
#[derive(Debug, Clone, Copy)]
struct Tensors {
    part: Part,
    class: Class,
    rows: u64,
    cols: u64,
    copies: u64,
    /// How many of the copies one token uses.
    active: u64,
    mtp: bool,
}

impl Tensors {
    fn elements(&self) -> u64 {
        self.copies * self.rows * self.cols
    }

    fn active_elements(&self) -> u64 {
        self.active * self.rows * self.cols
    }

    /// Scale elements of one tensor.
    fn scales(&self) -> u64 {
        let [rows, cols] = QuantizationConfig::WEIGHT_BLOCK_SIZE.map(|size| size as u64);
        self.rows.div_ceil(rows) * self.cols.div_ceil(cols)
    }

    /// The part that `quantization_config` knows it as.
    fn weight_part(&self) -> Option<WeightPart> {
        match self.part {
            Part::Embedding | Part::EmbeddingCopy => Some(WeightPart::Embed),
            Part::Head | Part::HeadCopy => Some(WeightPart::Head),
            Part::Attention => Some(WeightPart::Attention),
            Part::DenseFfn => Some(WeightPart::Dense),
            Part::RoutedExperts => Some(WeightPart::Experts),
            Part::SharedExperts => Some(WeightPart::Shared),
            Part::Projection => Some(WeightPart::Projection),
            Part::Router => Some(WeightPart::Router),
            Part::Norms => None,
        }
    }
}

/// Every tensor of a checkpoint of `config`.
fn tensors(config: &ModelFields) -> Vec<Tensors> {
    let d = config.hidden_size as u64;
    let vocab = config.vocab_size as u64;
    let layers = config.num_hidden_layers as u64;
    let dense = layers.min(config.first_k_dense_replace as u64);
    let mtp = config.num_nextn_predict_layers as u64;

    let mut list = Vec::new();
    let mut add = |part, class, rows, cols, copies, active, mtp| {
        list.push(Tensors { part, class, rows, cols, copies, active, mtp });
    };
    add(Part::Embedding, Class::Plain, vocab, d, 1, 1, false);
    add(Part::Norms, Class::Plain, 1, d, 1, 1, false);
    if !config.tie_word_embeddings {
        add(Part::Head, Class::Plain, vocab, d, 1, 1, false);
    }
    for (n, moe, mtp) in [(dense, false, false), (layers - dense, true, false), (mtp, true, true)] {
        add(Part::Norms, Class::Plain, 1, d, 2 * n, 2 * n, mtp);
        for (class, rows, cols) in attention(config) {
            add(Part::Attention, class, rows, cols, n, n, mtp);
        }
        let mut ffn = |part, width: usize, copies, active| {
            add(part, Class::Linear, width as u64, d, 2 * copies, 2 * active, mtp);
            add(part, Class::Linear, d, width as u64, copies, active, mtp);
        };
        if !moe {
            ffn(Part::DenseFfn, config.intermediate_size, n, n);
            continue;
        }
        let experts = config.n_routed_experts as u64;
        ffn(Part::RoutedExperts, config.moe_intermediate_size, n * experts, n * config.num_experts_per_tok as u64);
        ffn(Part::SharedExperts, config.shared_intermediate_size(), n, n);
        add(Part::Router, Class::Plain, experts, d, n, n, mtp);
        if config.topk_method == TopkMethod::NoauxTc {
            add(Part::Router, Class::AlwaysF32, 1, experts, n, n, mtp);
        }
    }
    // enorm, hnorm and shared_head.norm; eh_proj; embed_tokens and shared_head.head.
    add(Part::Norms, Class::Plain, 1, d, 3 * mtp, 3 * mtp, true);
    add(Part::Projection, Class::Plain, d, 2 * d, mtp, mtp, true);
    add(Part::EmbeddingCopy, Class::Plain, vocab, d, mtp, 0, true);
    add(Part::HeadCopy, Class::Plain, vocab, d, mtp, 0, true);
    list
}

/// Class, rows and columns of the attention tensors of one layer.
fn attention(config: &ModelFields) -> Vec<(Class, u64, u64)> {
    let d = config.hidden_size as u64;
    let heads = config.num_attention_heads as u64;
    let queries = heads * config.qk_head_dim() as u64;
    let kv_rank = config.kv_lora_rank as u64;
    let kv_a = config.kv_cache_dim() as u64;
    let values = heads * config.v_head_dim as u64;
    let mut list = match config.q_lora_rank {
        None => vec![(Class::Linear, queries, d)],
        Some(rank) => {
            let rank = rank as u64;
            let mut query = vec![(Class::Linear, rank, d), (Class::Plain, 1, rank), (Class::Linear, queries, rank)];
            if config.attention_bias {
                query.push((Class::Plain, 1, rank));
            }
            query
        }
    };
    list.extend([
        (Class::Linear, kv_a, d),
        (Class::Plain, 1, kv_rank),
        (Class::Linear, heads * (config.qk_nope_head_dim + config.v_head_dim) as u64, kv_rank),
        (Class::Linear, d, values),
    ]);
    if config.attention_bias {
        list.extend([(Class::Plain, 1, kv_a), (Class::Plain, 1, d)]);
    }
    list
}

fn parameters(config: &ModelFields, tensors: &[Tensors]) -> Parameters {
    let sum = |keep: &dyn Fn(&Tensors) -> bool| tensors.iter().filter(|t| keep(t)).map(Tensors::elements).sum::<u64>();
    let part = |part| sum(&|t| !t.mtp && t.part == part);
    let body = active_body(tensors, false);
    let head = config.vocab_size as u64 * config.hidden_size as u64;
    let embedding = if config.tie_word_embeddings { 0 } else { head };
    Parameters {
        main: sum(&|t| !t.mtp),
        parts: Parts {
            embedding: part(Part::Embedding),
            attention: part(Part::Attention),
            dense_ffn: part(Part::DenseFfn),
            routed_experts: part(Part::RoutedExperts),
            shared_experts: part(Part::SharedExperts),
            router: part(Part::Router),
            norms: part(Part::Norms),
            head: part(Part::Head),
        },
        mtp: sum(&|t| t.mtp && !matches!(t.part, Part::EmbeddingCopy | Part::HeadCopy)),
        mtp_with_copies: sum(&|t| t.mtp),
        active: Active {
            with_embedding_and_head: body + head + embedding,
            without_embedding: body + head,
            without_embedding_and_head: body,
        },
    }
}

/// Active parameters without embedding, head and the copies of them.
fn active_body(tensors: &[Tensors], mtp: bool) -> u64 {
    tensors
        .iter()
        .filter(|t| t.mtp == mtp && !matches!(t.part, Part::Embedding | Part::Head))
        .map(Tensors::active_elements)
        .sum()
}

/// `2 · active + layers · 2 · H · (d_qk + d_v) · S_eff` forward and three times that for training, where `S_eff` is
/// `S / 2` for causal attention. The head is a matrix a token is multiplied with; the embedding table is not.
fn flops(config: &ModelFields, tensors: &[Tensors], seq_len: u64) -> Flops {
    let head = config.vocab_size as u64 * config.hidden_size as u64;
    let head_dims = config.num_attention_heads as u128 * (config.qk_head_dim() + config.v_head_dim) as u128;
    let scores = |layers: usize| layers as u128 * head_dims * u128::from(seq_len);
    let layers = config.num_hidden_layers;
    let matrices = 2 * u128::from(active_body(tensors, false) + head);
    let mtp_layers = config.num_nextn_predict_layers;
    let mtp = 2 * (u128::from(active_body(tensors, true)) + mtp_layers as u128 * u128::from(head));
    let forward = matrices + scores(layers);
    Flops {
        seq_len,
        forward,
        training: 3 * forward,
        training_non_causal: 3 * (matrices + 2 * scores(layers)),
        training_mtp: 3 * (mtp + scores(mtp_layers)),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    Fp8,
    Bf16,
    F32,
}

fn storage(tensors: &[Tensors], layout: Layout) -> Storage {
    let mut total = Storage::default();
    for t in tensors {
        let mut bytes = 0;
        let mut count = |slot: &mut u64, elements: u64, width: u64| {
            *slot += t.copies;
            total.tensors += t.copies;
            total.elements += elements;
            bytes += elements * width;
        };
        match (layout, t.class) {
            (Layout::Fp8, Class::Linear) => {
                count(&mut total.tensors_f8, t.elements(), 1);
                count(&mut total.tensors_f32, t.copies * t.scales(), 4);
            }
            (Layout::F32, _) | (_, Class::AlwaysF32) => count(&mut total.tensors_f32, t.elements(), 4),
            (Layout::Fp8 | Layout::Bf16, _) => count(&mut total.tensors_bf16, t.elements(), 2),
        }
        total.bytes += bytes;
        if !t.mtp {
            total.bytes_main += bytes;
        }
    }
    total
}

fn kv_cache(config: &ModelFields) -> KvCache {
    let elements = config.kv_cache_dim() as u64;
    let layers = config.num_hidden_layers as u64;
    let mtp = config.num_nextn_predict_layers as u64;
    let per_head = config.num_attention_heads as u64 * (config.qk_head_dim() + config.v_head_dim) as u64;
    KvCache {
        elements_per_layer: elements,
        bytes_bf16: 2 * layers * elements,
        bytes_bf16_with_mtp: 2 * (layers + mtp) * elements,
        bytes_f32: 4 * layers * elements,
        bytes_bf16_per_head: 2 * layers * per_head,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Counts;
    use crate::presets::{PRESETS, preset};

    fn counts(name: &str) -> Counts {
        Counts::of(&preset(name).unwrap(), 4096)
    }

    #[test]
    fn parameters_of_v3_are_exact() {
        let p = counts("deepseek-v3").parameters;
        assert_eq!(p.main, 671_026_419_200);
        assert_eq!(p.mtp, 11_610_068_224);
        assert_eq!(p.mtp_with_copies, 13_463_426_304);
        assert_eq!(p.active.with_embedding_and_head, 37_552_297_472);
        assert_eq!(p.active.without_embedding, 36_625_618_432);
        assert_eq!(p.active.without_embedding_and_head, 35_698_939_392);
        assert_eq!(p.parts.attention, 61 * 187_107_328);
        assert_eq!(p.parts.routed_experts, 58 * 256 * 44_040_192);
    }

    #[test]
    fn the_released_file_of_v3_is_exact() {
        let fp8 = counts("deepseek-v3").checkpoint.fp8;
        assert_eq!((fp8.tensors, fp8.tensors_f8, fp8.tensors_f32, fp8.tensors_bf16), (91_991, 45_808, 45_867, 316));
        assert_eq!(fp8.bytes, 688_574_839_360);
        assert_eq!(fp8.bytes_main, 673_150_611_808);
        assert_eq!(fp8.elements, 684_531_386_000);
        let bf16 = counts("deepseek-v3").checkpoint.bf16;
        assert_eq!(bf16.bytes_main, 2 * 671_026_419_200 + 2 * 58 * 256);
        assert_eq!(counts("deepseek-v3").checkpoint.f32.bytes_main, 4 * 671_026_419_200);
    }

    #[test]
    fn flops_of_v3_match_the_published_throughput() {
        let flops = counts("deepseek-v3").flops_per_token;
        assert_eq!(flops.training, 6 * 36_625_618_432 + 3 * 61 * 128 * 320 * 4096);
        // Derived figures of 250.4 and 281.2 GFLOP, given to one decimal.
        assert!((flops.training as f64 / 1e9 - 250.4).abs() < 0.1, "{}", flops.training);
        assert!((flops.training_non_causal as f64 / 1e9 - 281.2).abs() < 0.1, "{}", flops.training_non_causal);
        assert_eq!(flops.training, 3 * flops.forward);
    }

    #[test]
    fn the_cache_of_v3_is_exact() {
        let cache = counts("deepseek-v3").kv_cache;
        assert_eq!(cache.bytes_bf16, 70_272);
        assert_eq!(cache.bytes_bf16_with_mtp, 71_424);
        assert_eq!(cache.bytes_bf16_per_head, 4_997_120);
    }

    #[test]
    fn the_family_has_its_advertised_sizes() {
        for (name, billions) in [
            ("deepseek-v3.1", 671.03),
            ("kimi-k2", 1026.4),
            ("moonlight-16b-a3b", 15.96),
            ("deepseek-v2", 235.7),
            ("deepseek-v2-lite", 15.71),
        ] {
            let main = counts(name).parameters.main as f64 / 1e9;
            assert!((main - billions).abs() < billions * 3e-4, "{name}: {main}");
        }
    }

    #[test]
    fn parts_add_up_and_mtp_is_counted_per_layer() {
        for p in PRESETS {
            let config = p.config();
            let counts = Counts::of(&config, 4096).parameters;
            let parts = &counts.parts;
            let sum = parts.embedding
                + parts.attention
                + parts.dense_ffn
                + parts.routed_experts
                + parts.shared_experts
                + parts.router
                + parts.norms
                + parts.head;
            assert_eq!(sum, counts.main, "{}", p.name);
            let change = json!({"num_nextn_predict_layers": 2}).as_object().unwrap().clone();
            let two = Counts::of(&config.with_overrides(&change).unwrap(), 4096).parameters;
            let copies = 2 * 2 * (config.vocab_size * config.hidden_size) as u64;
            assert_eq!(two.mtp_with_copies, two.mtp + copies, "{}", p.name);
            assert_eq!(two.main, counts.main, "{}", p.name);
        }
    }

    #[test]
    fn small_presets_have_the_size_they_say() {
        let size = |name: &str| (counts(name).parameters.main, counts(name).parameters.mtp);
        assert_eq!(size("tiny"), (235_160, 85_132));
        assert_eq!(size("nano"), (2_186_928, 516_880));
        assert_eq!(size("small"), (133_295_840, 14_322_592));
    }

    /// Elements and tensors counted in real files of the changed `tiny`, with the copies of its MTP layers.
    #[test]
    fn counts_agree_with_files() {
        let fp8 = json!({"quant_method": "fp8", "weight_block_size": [128, 128]});
        for (changes, elements, tensors) in [
            (json!({}), 361_252, 171),
            (json!({"first_k_dense_replace": 0}), 397_360, 209),
            (json!({"first_k_dense_replace": 3, "num_hidden_layers": 4}), 365_784, 145),
            (json!({"attention_bias": true, "n_shared_experts": 2}), 375_620, 183),
            (json!({"num_nextn_predict_layers": 0}), 235_160, 115),
            (json!({"q_lora_rank": null}), 365_220, 163),
            (json!({"tie_word_embeddings": true}), 340_772, 170),
            (
                json!({
                    "model_type": "deepseek_v2", "scoring_func": "softmax", "topk_method": "group_limited_greedy",
                    "norm_topk_prob": false, "n_shared_experts": 2, "num_nextn_predict_layers": 0,
                }),
                244_352,
                113,
            ),
            (
                json!({
                    "hidden_size": 160, "intermediate_size": 200, "kv_lora_rank": 132, "moe_intermediate_size": 144,
                    "n_group": 2, "topk_group": 1, "n_routed_experts": 4, "num_experts_per_tok": 2,
                    "num_hidden_layers": 2, "num_nextn_predict_layers": 0, "q_lora_rank": 136, "vocab_size": 300,
                    "quantization_config": fp8,
                }),
                708_384,
                69,
            ),
        ] {
            let config = preset("tiny").unwrap().with_overrides(changes.as_object().unwrap()).unwrap();
            let checkpoint = Counts::of(&config, 64).checkpoint;
            let file = if config.quantization_config.is_some() { checkpoint.fp8 } else { checkpoint.bf16 };
            assert_eq!((file.elements, file.tensors), (elements, tensors), "{changes}");
        }
        // A file with two MTP layers and without their copies.
        let changes = json!({"num_hidden_layers": 2, "num_nextn_predict_layers": 2});
        let config = preset("tiny").unwrap().with_overrides(changes.as_object().unwrap()).unwrap();
        let parameters = Counts::of(&config, 64).parameters;
        assert_eq!(parameters.main + parameters.mtp, 328_676);
    }

    #[test]
    fn a_tied_head_is_counted_once() {
        let tied = json!({"tie_word_embeddings": true}).as_object().unwrap().clone();
        let config = preset("tiny").unwrap();
        let counts = Counts::of(&config.with_overrides(&tied).unwrap(), 64).parameters;
        assert_eq!(counts.parts.head, 0);
        assert_eq!(counts.active.with_embedding_and_head, counts.active.without_embedding);
        assert_eq!(counts.main + 320 * 64, self::counts("tiny").parameters.main);
    }
}
