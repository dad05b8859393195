#!/usr/bin/env python3
"""Training steps of one model here and in transformers on torch, alternating, in one run.

    cargo build --release
    python benchmarks/train_vs_torch.py [--rounds 3] [--threads 2]

Needs torch and transformers. The model is the preset "small" (recipes/bench-small.toml): f32, four rows of 512 tokens,
AdamW. transformers runs in each of its expert modes and the best one counts. Prints one JSON object.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

ROOT = Path(__file__).resolve().parent.parent
ROWS, SEQ_LEN = 4, 512


def hadal(*arguments, threads):
    command = [ROOT / "target/release/hadal", "--threads", str(threads), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def torch_tokens_per_s(config, experts, steps):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="sdpa", experts_implementation=experts
    )
    model.config.use_cache = False
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    ids = torch.randint(0, config.vocab_size, (ROWS, SEQ_LEN))
    seconds = []
    for step in range(steps + 2):
        start = time.perf_counter()
        model(input_ids=ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step >= 2:
            seconds.append(time.perf_counter() - start)
    return ROWS * SEQ_LEN / statistics.median(seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "small"
        hadal("init", "--preset", "small", "--out", model, "--set", "num_nextn_predict_layers=0", threads=arguments.threads)
        config = AutoConfig.from_pretrained(model)

    rounds = []
    for _ in range(arguments.rounds):
        ours = json.loads(hadal("bench", ROOT / "recipes/bench-small.toml", "--json", threads=arguments.threads))
        theirs = {e: torch_tokens_per_s(config, e, arguments.steps) for e in ("eager", "grouped_mm")}
        best = max(theirs.values())
        rounds.append({"hadal": ours["tokens_per_s"], "torch": theirs, "ratio": ours["tokens_per_s"] / best})
        print(json.dumps(rounds[-1]), flush=True)
    print(
        json.dumps(
            {
                "median_ratio": statistics.median(r["ratio"] for r in rounds),
                "threads": arguments.threads,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "hadal": hadal("--version", threads=arguments.threads).strip(),
            }
        )
    )


if __name__ == "__main__":
    main()
