#!/usr/bin/env python3
"""Training steps of one model here and in transformers on torch, alternating, in one run.

    cargo build --release
    python benchmarks/train_vs_torch.py [--precision f32,bf16] [--rounds 3] [--threads 2]

Needs torch and transformers. The model and its rows are the recipe's, by default the preset "small" with four rows of
512 tokens, AdamW. transformers runs in each of its expert modes and the best one counts; bf16 there is autocast, which
keeps f32 weights as hadal does. Prints a JSON object for each precision and round and one of medians; with --peer-only
torch alone runs, once.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
import tomllib
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

ROOT = Path(__file__).resolve().parent.parent
EXPERTS = ("eager", "grouped_mm")


class Job:
    """What a step is: model, rows, tokens in a row."""

    def __init__(self, options):
        recipe = tomllib.loads(options.recipe.read_text())
        self.rows, self.seq_len = recipe["batch"]["end"], recipe["data"]["seq_len"]
        changes = recipe["model"].get("set", {})
        sets = [part for key, value in changes.items() for part in ("--set", f"{key}={json.dumps(value)}")]
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder) / "model"
            hadal(options, "init", "--preset", recipe["model"]["preset"], "--out", model, *sets)
            self.config = AutoConfig.from_pretrained(model)


def hadal(options, *arguments):
    command = [options.hadal, "--threads", str(options.threads), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def hadal_tokens_per_s(options, precision):
    choice = f"train.precision={json.dumps(precision)}"
    report = json.loads(hadal(options, "bench", "train", options.recipe, "--set", choice, "--json"))
    return report["tokens_per_s"]["median"]


def torch_tokens_per_s(job, experts, precision, steps):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        job.config, dtype=torch.float32, attn_implementation="sdpa", experts_implementation=experts
    )
    model.config.use_cache = False
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    ids = torch.randint(0, job.config.vocab_size, (job.rows, job.seq_len))
    seconds = []
    for step in range(steps + 2):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step >= 2:
            seconds.append(time.perf_counter() - start)
    return job.rows * job.seq_len / statistics.median(seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hadal", type=Path, default=ROOT / "target/release/hadal", help="the program")
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes/bench-small.toml")
    parser.add_argument("--precision", default="f32", help="f32, bf16 or both")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peer-only", action="store_true")
    options = parser.parse_args()
    precisions = options.precision.split(",")
    if unknown := set(precisions) - {"f32", "bf16"}:
        parser.error(f"--precision {unknown.pop()}: it is f32 or bf16")
    torch.set_num_threads(options.threads)
    job = Job(options)

    if options.peer_only:
        for precision in precisions:
            theirs = {e: torch_tokens_per_s(job, e, precision, options.steps) for e in EXPERTS}
            print(json.dumps({"precision": precision, "torch": theirs}), flush=True)
        return
    ratios = {precision: [] for precision in precisions}
    for _ in range(options.rounds):
        for precision in precisions:
            ours = hadal_tokens_per_s(options, precision)
            theirs = {e: torch_tokens_per_s(job, e, precision, options.steps) for e in EXPERTS}
            ratio = ours / max(theirs.values())
            ratios[precision].append(ratio)
            print(json.dumps({"precision": precision, "hadal": ours, "torch": theirs, "ratio": ratio}), flush=True)
    summary = {
        "median_ratio": {precision: statistics.median(r) for precision, r in ratios.items()},
        "threads": options.threads,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "hadal": hadal(options, "--version").strip(),
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
