#!/usr/bin/env python3
"""Compares the logits of a model directory in transformers with those of `hadal logits`.

    hadal logits --model DIR --ids 5,7,9 --out logits.safetensors
    python testdata/check_transformers.py DIR logits.safetensors

Needs torch, transformers and safetensors. Exits with 1 when the largest difference exceeds the project's bar,
1e-5 times the largest logit over 4 (at least 1e-5).
"""

import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


def main():
    model_dir, file = sys.argv[1:]
    ours = load_file(file)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        theirs = model.eval()(ours["input_ids"].long()[None]).logits[0]
    difference = (ours["logits"] - theirs).abs().max().item()
    bar = 1e-5 * max(1.0, theirs.abs().max().item() / 4)
    print(f"largest difference {difference:.2e}, the bar is {bar:.2e}, largest logit {theirs.abs().max():.2f}")
    sys.exit(difference > bar)


if __name__ == "__main__":
    main()
