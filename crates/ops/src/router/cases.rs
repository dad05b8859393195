//! Configurations that matter, with a number of tokens.

use super::{Config, Method, Scoring};

/// DeepSeek-V3.
pub const V3: Config = Config {
    n_routed_experts: 256,
    num_experts_per_tok: 8,
    n_group: 8,
    topk_group: 4,
    scoring: Scoring::Sigmoid,
    method: Method::NoauxTc,
    norm_topk_prob: true,
    routed_scaling_factor: 2.5,
};

/// DeepSeek-V2, 236B.
pub const V2: Config = Config {
    n_routed_experts: 160,
    num_experts_per_tok: 6,
    n_group: 8,
    topk_group: 3,
    scoring: Scoring::Softmax,
    method: Method::GroupLimitedGreedy,
    norm_topk_prob: false,
    routed_scaling_factor: 16.0,
};

/// DeepSeek-V2-Lite.
pub const V2_LITE: Config = Config {
    n_routed_experts: 64,
    n_group: 1,
    topk_group: 1,
    method: Method::Greedy,
    routed_scaling_factor: 1.0,
    ..V2
};

/// Correctness: the family, both rules of each switch, one group, one expert a token, all experts, odd numbers.
pub const EXACT: &[(usize, Config)] = &[
    (70, V3),
    (33, V2),
    (33, V2_LITE),
    (9, Config { n_group: 1, topk_group: 1, ..V3 }),
    (9, Config { norm_topk_prob: false, ..V3 }),
    (9, Config { norm_topk_prob: true, ..V2 }),
    (9, Config { norm_topk_prob: true, num_experts_per_tok: 1, ..V2 }),
    (9, Config { n_routed_experts: 21, num_experts_per_tok: 5, n_group: 7, topk_group: 2, ..V3 }),
    (9, Config { n_routed_experts: 3, num_experts_per_tok: 3, n_group: 1, topk_group: 1, ..V3 }),
    (1, Config { n_routed_experts: 1, num_experts_per_tok: 1, n_group: 1, topk_group: 1, ..V3 }),
];

/// Speed.
pub const SPEED: &[(usize, Config)] = &[(4096, V3), (4096, V2_LITE)];

/// Of the largest element: an exponential, a sum of 256 scores in 16 lanes, and some six roundings more.
pub const TOLERANCE: f64 = 2e-6;
