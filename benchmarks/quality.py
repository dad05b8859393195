#!/usr/bin/env python3
"""What quantising costs: bits per byte of a model on text, in each of several formats.

    cargo build --release
    python benchmarks/quality.py --model MODEL_DIR --text FILE [FILE ..] [--quant rest=fp8 experts=q4,rest=fp8 ..]

Converts the model, which should be unquantised, to a temporary directory for each format and evaluates it there, as
`hadal eval` does by default. Prints a table, or with --json one JSON object.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FORMATS = ["rest=q8", "rest=fp8", "experts=q4,rest=fp8", "rest=q4", "embed=q4,head=q4,rest=q4"]


def hadal(options, *arguments):
    command = [str(part) for part in (options.hadal, *arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def evaluate(options, model):
    return json.loads(hadal(options, "eval", "--model", model, "--json", "--context", options.context, "--text", *options.text))


def weight_bytes(model):
    return sum(file.stat().st_size for file in Path(model).glob("*.safetensors"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hadal", type=Path, default=ROOT / "target/release/hadal", help="the program")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, nargs="+", required=True)
    parser.add_argument("--quant", nargs="+", default=FORMATS, help="what --quant of `hadal convert` takes")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    base = evaluate(options, options.model)
    rows = [{"quant": None, "bytes": weight_bytes(options.model), "bits_per_byte": base["bits_per_byte"], "change": 0.0}]
    for quant in options.quant:
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder) / "model"
            hadal(options, "convert", "--model", options.model, "--out", model, "--quant", quant)
            found = evaluate(options, model)["bits_per_byte"]
            change = found - base["bits_per_byte"]
            rows.append({"quant": quant, "bytes": weight_bytes(model), "bits_per_byte": found, "change": change})
    if options.json:
        whole = {"text": [file.name for file in options.text], "text_bytes": base["bytes"], "tokens": base["tokens"]}
        print(json.dumps({**whole, "context": base["context"], "rows": rows}, indent=1))
        return
    print(f"{base['bytes']} bytes, {base['tokens']} tokens, windows of {base['context']}")
    print(f"{'--quant':<28}{'MB':>8}{'bits per byte':>16}{'change':>10}")
    for row in rows:
        name, size = row["quant"] or "as it is", row["bytes"] / 1e6
        print(f"{name:<28}{size:>8.1f}{row['bits_per_byte']:>16.4f}{row['change']:>+10.4f}")


if __name__ == "__main__":
    main()
