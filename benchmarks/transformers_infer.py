#!/usr/bin/env python3
"""Prefill and decode of a model in transformers on torch: bf16, sdpa attention, experts by grouped_mm.

    python benchmarks/transformers_infer.py --model DIR [--prompt 512 --batch 1,8 --context 512 --tokens 32 --threads 2]

Random tokens. A context is prefilled once and copied for each sequence of a batch, so that each has memory of its own.
Prints one JSON object of medians. `benchmarks/run.py` runs this beside hadal.
"""

import argparse
import copy
import json
import statistics
import time

import torch
from transformers import AutoModelForCausalLM


def numbers(text):
    return [int(part) for part in text.split(",")]


def seconds(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--prompt", type=numbers, default=[512])
    parser.add_argument("--batch", type=numbers, default=[1, 8])
    parser.add_argument("--context", type=numbers, default=[512])
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--experts", default="grouped_mm", help="how experts are computed")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)

    model = AutoModelForCausalLM.from_pretrained(
        options.model, dtype=torch.bfloat16, attn_implementation="sdpa", experts_implementation=options.experts
    ).eval()
    torch.manual_seed(0)

    def ids(rows, length):
        return torch.randint(0, model.config.vocab_size, (rows, length))

    def forward(tokens, cache=None):
        return model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1).past_key_values

    report = {"experts": options.experts, "threads": torch.get_num_threads(), "prefill": [], "decode": []}
    with torch.inference_mode():
        for length in options.prompt:
            prompt = ids(1, length)
            forward(prompt[:, :64])
            times = [seconds(lambda: forward(prompt)) for _ in range(options.repeat)]
            report["prefill"].append({"tokens": length, "tokens_per_s": length / statistics.median(times)})
        for context in options.context:
            filled = forward(ids(1, context))
            for batch in options.batch:
                cache = copy.deepcopy(filled)
                cache.batch_repeat_interleave(batch)
                for _ in range(2):
                    forward(ids(batch, 1), cache)
                times = [seconds(lambda: forward(ids(batch, 1), cache)) for _ in range(options.tokens)]
                row = {"batch": batch, "context": context, "tokens_per_s": batch / statistics.median(times)}
                report["decode"].append(row)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
