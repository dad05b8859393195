//! What the numbers are called.

use prometheus::proto::{MetricFamily, MetricType};

use super::told::Told;

/// Tokens of a block of latents.
pub(crate) const BLOCK_TOKENS: usize = model::BLOCK_TOKENS;

/// A number of an engine.
pub(crate) struct Number {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) kind: MetricType,
    /// Nothing where it was not measured.
    pub(crate) value: fn(&Told) -> Option<f64>,
}

const fn gauge(name: &'static str, help: &'static str, value: fn(&Told) -> Option<f64>) -> Number {
    Number { name, help, kind: MetricType::GAUGE, value }
}

const fn counter(name: &'static str, help: &'static str, value: fn(&Told) -> Option<f64>) -> Number {
    Number { name, help, kind: MetricType::COUNTER, value }
}

/// All of them.
pub(crate) const OF_ENGINE: &[Number] = &[
    gauge("hadal_running_requests", "Requests that are answered now", |t| Some(t.stats.running as f64)),
    gauge("hadal_waiting_requests", "Requests that wait for their turn", |t| Some(t.stats.waiting as f64)),
    gauge("hadal_kv_blocks", "Blocks of latents that there may be", |t| Some(t.stats.blocks as f64)),
    gauge("hadal_kv_blocks_used", "Blocks of latents that there are, those kept for later prompts included", |t| {
        Some(t.stats.blocks_used as f64)
    }),
    gauge("hadal_kv_usage_ratio", "Share of the blocks that requests need now", |t| {
        Some(if t.stats.blocks == 0 { 0.0 } else { t.stats.blocks_in_use as f64 / t.stats.blocks as f64 })
    }),
    counter("hadal_steps_total", "Steps of the engine", |t| Some(t.stats.steps as f64)),
    counter("hadal_prompt_tokens_total", "Prompt tokens that the model was run over", |t| {
        Some(t.stats.prompt_tokens as f64)
    }),
    counter("hadal_generation_tokens_total", "Tokens of answers", |t| Some(t.stats.answer_tokens as f64)),
    counter("hadal_prefix_queried_tokens_total", "Prompt tokens that were looked for in the cache", |t| {
        Some(t.stats.queried_tokens as f64)
    }),
    counter("hadal_prefix_cached_tokens_total", "Prompt tokens that were found in the cache", |t| {
        Some(t.stats.cached_tokens as f64)
    }),
    counter("hadal_preemptions_total", "Times that a request made room for others", |t| {
        Some(t.stats.preemptions as f64)
    }),
    counter("hadal_kv_evicted_blocks_total", "Blocks of latents that were forgotten", |t| {
        Some(t.stats.evicted_blocks as f64)
    }),
    counter("hadal_step_seconds_total", "Time of all steps", |t| Some(t.stats.step_seconds)),
    counter("hadal_model_seconds_total", "Time of steps in which the model ran", |t| Some(t.stats.model_seconds)),
    counter("hadal_draw_seconds_total", "Time of steps in which tokens were drawn and handed on", |t| {
        Some(t.stats.draw_seconds)
    }),
    counter("hadal_step_requests_total", "Requests that were answered in a step, of all steps", |t| {
        Some(t.stats.step_requests as f64)
    }),
    gauge("hadal_batch_size", "Requests that share a step, in the mean", |t| {
        (t.stats.steps > 0).then(|| t.stats.step_requests as f64 / t.stats.steps as f64)
    }),
    counter("hadal_decode_steps_total", "Steps in which answers went on", |t| Some(t.stats.decode_steps as f64)),
    counter("hadal_decoded_tokens_total", "Tokens that those steps ran over, proposals included", |t| {
        Some((t.stats.decoded + t.stats.proposed) as f64)
    }),
    counter("hadal_spec_proposed_tokens_total", "Tokens that the MTP layer proposed", |t| {
        Some(t.stats.proposed as f64)
    }),
    counter("hadal_spec_accepted_tokens_total", "Proposed tokens that were the ones to be drawn", |t| {
        Some(t.stats.accepted as f64)
    }),
    gauge("hadal_kv_disk_bytes", "Bytes of the cache on disk", |t| Some(t.stats.disk?.bytes as f64)),
    gauge("hadal_kv_disk_quota_bytes", "Bytes that it may have", |t| Some(t.stats.disk?.quota_bytes as f64)),
    gauge("hadal_kv_disk_blocks", "Blocks of latents that it has", |t| Some(t.stats.disk?.blocks as f64)),
    counter("hadal_kv_disk_hits_total", "Blocks that were read from disk", |t| Some(t.stats.disk?.hits as f64)),
    counter("hadal_kv_disk_read_bytes_total", "Bytes of those", |t| Some(t.stats.disk?.read_bytes as f64)),
    counter("hadal_kv_disk_writes_total", "Blocks that were written to disk", |t| Some(t.stats.disk?.writes as f64)),
    counter("hadal_kv_disk_written_bytes_total", "Bytes of those", |t| Some(t.stats.disk?.written_bytes as f64)),
    counter("hadal_kv_disk_evictions_total", "Blocks on disk that made room for others", |t| {
        Some(t.stats.disk?.evictions as f64)
    }),
    counter("hadal_kv_disk_damaged_total", "Files of blocks that could not be used", |t| {
        Some(t.stats.disk?.damaged as f64)
    }),
    counter("hadal_kv_disk_skipped_total", "Blocks that were not written for lack of time or room", |t| {
        Some(t.stats.disk?.skipped as f64)
    }),
    counter("hadal_kv_disk_failed_total", "Blocks that could not be written", |t| Some(t.stats.disk?.failed as f64)),
    gauge("hadal_spec_speedup_ratio", "How many times as fast an answer alone is with proposals", |t| {
        t.stats.mtp_speedup
    }),
    counter("hadal_engine_faults_total", "Steps of the engine that failed by a fault of the program", |t| {
        Some(t.faults as f64)
    }),
    gauge("hadal_step_running_seconds", "How long the present step has taken so far; 0 without one", |t| {
        Some(t.in_step.as_secs_f64())
    }),
    gauge("hadal_expert_cache_bytes", "Bytes of experts in memory, where they are read when they are needed", |t| {
        Some(t.expert_cache?.used_bytes as f64)
    }),
    counter("hadal_expert_cache_hits_total", "Experts that were in memory when they were needed", |t| {
        Some(t.expert_cache?.reads.hits as f64)
    }),
    counter("hadal_expert_cache_misses_total", "Experts that had to be read", |t| {
        Some(t.expert_cache?.reads.misses as f64)
    }),
    counter("hadal_expert_cache_bytes_read_total", "Bytes of those", |t| Some(t.expert_cache?.reads.bytes as f64)),
];

/// Our names, and vLLM's for the same.
const ALIASES: &[(&str, &str)] = &[
    ("hadal_running_requests", "vllm:num_requests_running"),
    ("hadal_waiting_requests", "vllm:num_requests_waiting"),
    ("hadal_kv_usage_ratio", "vllm:kv_cache_usage_perc"),
    ("hadal_prefix_queried_tokens_total", "vllm:prefix_cache_queries_total"),
    ("hadal_prefix_cached_tokens_total", "vllm:prefix_cache_hits_total"),
    ("hadal_prompt_tokens_total", "vllm:prompt_tokens_total"),
    ("hadal_generation_tokens_total", "vllm:generation_tokens_total"),
    ("hadal_preemptions_total", "vllm:num_preemptions_total"),
    ("hadal_time_to_first_token_seconds", "vllm:time_to_first_token_seconds"),
    ("hadal_inter_token_latency_seconds", "vllm:inter_token_latency_seconds"),
    ("hadal_request_time_per_output_token_seconds", "vllm:request_time_per_output_token_seconds"),
    ("hadal_request_duration_seconds", "vllm:e2e_request_latency_seconds"),
    ("hadal_request_queue_seconds", "vllm:request_queue_time_seconds"),
    ("hadal_request_prefill_seconds", "vllm:request_prefill_time_seconds"),
    ("hadal_request_decode_seconds", "vllm:request_decode_time_seconds"),
    ("hadal_request_prompt_tokens", "vllm:request_prompt_tokens"),
    ("hadal_request_generation_tokens", "vllm:request_generation_tokens"),
    ("hadal_request_success_total", "vllm:request_success_total"),
    // Each draft is of one token.
    ("hadal_spec_proposed_tokens_total", "vllm:spec_decode_num_drafts_total"),
    ("hadal_spec_proposed_tokens_total", "vllm:spec_decode_num_draft_tokens_total"),
    ("hadal_spec_accepted_tokens_total", "vllm:spec_decode_num_accepted_tokens_total"),
    ("hadal_spec_accepted_tokens_total", "vllm:spec_decode_num_accepted_tokens_per_pos_total"),
    ("hadal_cache_config_info", "vllm:cache_config_info"),
    ("hadal_admission_rejections_total", "vllm:admission_rejections_total"),
];

/// The same numbers under vLLM's names.
pub(crate) fn aliases(ours: &[MetricFamily]) -> Vec<MetricFamily> {
    let alias = |(name, alias): &(&str, &str)| {
        let mut family = ours.iter().find(|family| family.name() == *name)?.clone();
        family.set_name((*alias).to_owned());
        if alias.ends_with("per_pos_total") {
            for metric in family.mut_metric() {
                let mut labels = metric.take_label();
                labels.push(super::label("position", "0"));
                metric.set_label(labels);
            }
        }
        Some(family)
    };
    ALIASES.iter().filter_map(alias).collect()
}
