#!/usr/bin/env python3
"""hadal and what one would use instead, on this machine, in turn, in one go.

    cargo build --release
    python benchmarks/run.py --model MODEL_DIR [MODEL_DIR ..] [--llama-bin DIR --gguf FILE ..]
                             [--python EXE --hf-model DIR] [--train RECIPE] [--quick]

Each round runs every contender once, one after the other, so that what else the machine does meets all of them alike;
the medians over rounds count. hadal needs nothing but its binary. llama.cpp needs the folder of its tools and GGUF files.
transformers and torch need a Python that has them, and a model directory that it can read; a peer that is not named is
not run. What is measured: prefill of prompts, decode at batches and contexts, and with --train the steps of a recipe.
All directories and files of one run are the same model in different types: each is compared with the best of the others.

Writes a record into benchmarks/DATE-HOST: command.txt, versions.json, the raw output of every run, summary.json and
summary.md. `benchmarks/chart.py` draws it.
"""

import argparse
import contextlib
import datetime
import fcntl
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hadal", type=Path, default=ROOT / "target/release/hadal", help="the program")
    parser.add_argument("--model", type=Path, nargs="*", default=[], help="model directories for hadal")
    parser.add_argument("--llama-bin", type=Path, help="folder of llama-bench and llama-batched-bench")
    parser.add_argument("--gguf", type=Path, nargs="*", default=[], help="models for llama.cpp")
    parser.add_argument("--flash-attention", default="off,on", help="settings of llama.cpp to try; the better one counts")
    parser.add_argument("--python", type=Path, help="a Python with torch and transformers")
    parser.add_argument("--hf-model", type=Path, nargs="*", default=[], help="model directories for transformers")
    parser.add_argument("--train", type=Path, help="a recipe whose steps are timed; with --python also in torch")
    parser.add_argument("--precision", default="f32,bf16", help="precisions of training")
    parser.add_argument("--prompt", default="512,4096")
    parser.add_argument("--decode", default="1@512,8@512,1@4096,8@4096", help="batches and the contexts they have")
    parser.add_argument("--tokens", type=int, default=32, help="decoding steps of a measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--quick", action="store_true", help="one round of short prompts, contexts and answers")
    parser.add_argument("--host", default=platform.node().split(".")[0] or "host", help="name of this machine in the record")
    parser.add_argument("--out", type=Path, default=HERE, help="where the record's folder is made")
    parser.add_argument("--continue", dest="go_on", action="store_true", help="take what a run of today that was stopped has measured")
    parser.add_argument("--lock", type=Path, help="a file to hold locked while something is measured")
    options = parser.parse_args(arguments)
    if options.quick:
        options.prompt, options.decode, options.tokens, options.rounds = "128", "1@128,8@128", 8, 1
    if options.gguf and not options.llama_bin:
        parser.error("--gguf needs --llama-bin")
    if options.hf_model and not options.python:
        parser.error("--hf-model needs --python")
    if not (options.model or options.gguf or options.hf_model or options.train):
        parser.error("name something to measure: --model, --gguf, --hf-model or --train")
    missing = [p for p in [*options.model, *options.gguf, *options.hf_model, options.train] if p and not p.exists()]
    if missing:
        parser.error(f"there is no {missing[0]}")
    return options


def numbers(text):
    return [int(part) for part in text.split(",")]


def decodes(options):
    """{context: its batches}."""
    found = {}
    for part in options.decode.split(","):
        batch, context = part.split("@")
        found.setdefault(int(context), []).append(int(batch))
    return found


def joined(values):
    return ",".join(str(value) for value in values)


class Record:
    """The folder of one run, and the only way to start a program that is measured."""

    def __init__(self, options, told="command.txt"):
        self.options = options
        date = datetime.date.today().isoformat()
        self.folder = options.out / f"{date}-{options.host}"
        (self.folder / "raw").mkdir(parents=True, exist_ok=True)
        self.date = date
        named = [*options.model, *options.gguf, *options.hf_model, options.hadal, options.llama_bin, options.python]
        named += [options.train, options.lock, options.out, HERE]
        # The longest first, so that a folder does not hide what lies in it.
        self.paths = sorted({str(form) for path in named if path for form in (path, path.resolve())}, key=len, reverse=True)
        command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
        (self.folder / told).write_text(self.shorten(command) + "\n")
        self.failed = []

    def shorten(self, text):
        """Paths by their last part: where files lie on one machine says nothing on another."""
        for path in self.paths:
            text = text.replace(path, Path(path).name)
        return text

    def run(self, name, command):
        """Standard output of `command`, kept in raw/NAME.txt with the command before it."""
        command = [str(part) for part in command]
        raw = self.folder / "raw" / f"{name}.txt"
        head = f"$ {shlex.join(command)}\n"
        if self.options.go_on and raw.exists():
            first, _, rest = raw.read_text().partition("\n")
            if first + "\n" == self.shorten(head) and not rest.startswith("exit code"):
                return rest
        print("#", name, flush=True)
        with self.lock():
            done = subprocess.run(command, capture_output=True, text=True)
        text = head + done.stdout
        if done.returncode != 0:
            text += f"exit code {done.returncode}\n{done.stderr}"
        raw.write_text(self.shorten(text))
        if done.returncode != 0:
            raise RuntimeError(f"{name} failed ({done.returncode}); see {self.folder}/raw/{name}.txt\n{done.stderr[-2000:]}")
        return done.stdout

    @contextlib.contextmanager
    def lock(self):
        if self.options.lock is None:
            yield
            return
        with open(self.options.lock, "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


# What is given as a share of the machine's limits, and the heads of these columns.
SHARES = {"share_of_limit": "of the limit", "share_of_read": "of read bandwidth", "share_of_flops": "of arithmetic"}


# A contender's function returns {row: {"value": tokens per second, ..}}; rows have the same names for all.


def prefill_row(tokens):
    return f"prefill {tokens}"


def decode_row(batch, context):
    return f"decode {batch} at {context}"


def hadal_infer(record, name, model):
    o = record.options
    rows = {}
    for i, (context, batches) in enumerate(decodes(o).items()):
        command = [o.hadal, "--threads", o.threads, "bench", "infer", "--model", model, "--json", "--tokens", o.tokens]
        command += ["--repeat", 1, "--prompt", o.prompt if i == 0 else 16, "--batch", joined(batches), "--context", context]
        report = json.loads(record.run(f"{name}-{context}", command))
        if i == 0:
            rows["start"] = {"value": report["start_s"], "unit": "s"}
            own = report["memory_at_start"]
            rows["own memory at the start"] = {"value": own["anonymous_bytes"] / 2**20, "unit": "MiB"}
            for row in report["prefill"]:
                shares = {"share_of_limit": row["share_of_flops"]}
                rows[prefill_row(row["tokens"])] = {"value": row["tokens_per_s"]["median"], **shares}
        for row in report["decode"]:
            shares = {key: row[key] for key in SHARES}
            rows[decode_row(row["batch"], row["context"])] = {"value": row["tokens_per_s"]["median"], **shares}
    return rows


def llama_infer(record, name, gguf, flash):
    """`llama-bench` for one sequence, `llama-batched-bench` for several; both count only what the row names."""
    o = record.options
    rows = {}
    base = [o.llama_bin / "llama-bench", "-m", gguf, "-t", o.threads, "-fa", flash, "-r", 1, "-o", "jsonl"]
    for tokens in numbers(o.prompt):
        out = record.run(f"{name}-prefill-{tokens}", [*base, "-p", tokens, "-n", 0])
        rows[prefill_row(tokens)] = {"value": last_json(out)["avg_ts"]}
    for context, batches in decodes(o).items():
        for batch in batches:
            if batch == 1:
                out = record.run(f"{name}-decode-1-{context}", [*base, "-p", 0, "-n", o.tokens, "-d", context])
                rows[decode_row(1, context)] = {"value": last_json(out)["avg_ts"]}
                continue
            command = [o.llama_bin / "llama-batched-bench", "-m", gguf, "-t", o.threads, "-tb", o.threads, "-fa", flash]
            command += ["-c", (context + o.tokens + 64) * batch, "-b", 2048, "-ub", 512]
            command += ["-npp", context, "-ntg", o.tokens, "-npl", batch, "--output-format", "jsonl"]
            out = record.run(f"{name}-decode-{batch}-{context}", command)
            rows[decode_row(batch, context)] = {"value": last_json(out)["speed_tg"]}
    return rows


def transformers_infer(record, name, model):
    o = record.options
    rows = {}
    for i, (context, batches) in enumerate(decodes(o).items()):
        command = [o.python, HERE / "transformers_infer.py", "--model", model, "--threads", o.threads, "--tokens", o.tokens]
        command += ["--prompt", o.prompt if i == 0 else 16, "--batch", joined(batches), "--context", context]
        report = last_json(record.run(f"{name}-{context}", command))
        if i == 0:
            rows |= {prefill_row(row["tokens"]): {"value": row["tokens_per_s"]} for row in report["prefill"]}
        rows |= {decode_row(row["batch"], row["context"]): {"value": row["tokens_per_s"]} for row in report["decode"]}
    return rows


def hadal_train(record, name, precision):
    o = record.options
    command = [o.hadal, "--threads", o.threads, "bench", "train", o.train, "--set", f"train.precision={json.dumps(precision)}"]
    report = json.loads(record.run(name, [*command, "--json"]))
    shares = {"share_of_limit": report["share_of_flops"]}
    return {f"training {precision}": {"value": report["tokens_per_s"]["median"], **shares}}


def torch_train(record, name, precision):
    o = record.options
    command = [o.python, HERE / "train_vs_torch.py", "--peer-only", "--hadal", o.hadal, "--recipe", o.train]
    command += ["--threads", o.threads, "--precision", precision]
    report = last_json(record.run(name, command))
    return {f"training {precision}": {"value": max(report["torch"].values()), "modes": report["torch"]}}


def last_json(text):
    """The last line that is a JSON object: tools also print other things."""
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            return json.loads(line)
    raise RuntimeError(f"no JSON object in the output: {text[-500:]!r}")


def contenders(options):
    """(label, runs), each run being (name of its file, function of record and file name)."""
    list_ = []
    for model in options.model:
        list_.append((f"hadal {model.name}", [(f"hadal-{model.name}", lambda r, n, m=model: hadal_infer(r, n, m))]))
    for gguf in options.gguf:
        runs = []
        for flash in options.flash_attention.split(","):
            name = f"llama-{gguf.stem}-flash-{flash}"
            runs.append((name, lambda r, n, g=gguf, f=flash: llama_infer(r, n, g, f)))
        list_.append((f"llama.cpp {gguf.stem}", runs))
    for model in options.hf_model:
        runs = [(f"transformers-{model.name}", lambda r, n, m=model: transformers_infer(r, n, m))]
        list_.append((f"transformers {model.name}", runs))
    if options.train:
        precisions = options.precision.split(",")
        runs = [(f"hadal-train-{p}", lambda r, n, p=p: hadal_train(r, n, p)) for p in precisions]
        list_.append(("hadal", runs))
        if options.python:
            runs = [(f"torch-train-{p}", lambda r, n, p=p: torch_train(r, n, p)) for p in precisions]
            list_.append(("torch", runs))
    return list_


def measure(record, list_):
    """{row: {label: [one measurement a round]}}. Of several settings of a contender the better one of a round counts."""
    rows = {}
    for round_ in range(record.options.rounds):
        for label, runs in list_:
            best = {}
            for name, run in runs:
                # One that fails leaves its cells empty; hours of the others are not thrown away with it.
                try:
                    measured = run(record, f"{round_ + 1}-{name}")
                except (RuntimeError, KeyError, OSError, ValueError) as error:
                    record.failed.append(f"{round_ + 1}-{name}")
                    print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
                    continue
                for row, found in measured.items():
                    if row not in best or found["value"] > best[row]["value"]:
                        best[row] = found
            for row, found in best.items():
                rows.setdefault(row, {}).setdefault(label, []).append(found)
    return rows


def summarise(rows):
    """Medians over rounds, and how many times as fast each of ours is as the best of the others."""
    summary = []
    for row, labels in rows.items():
        values = {}
        for label, found in labels.items():
            values[label] = {"median": statistics.median(f["value"] for f in found), "rounds": [f["value"] for f in found]}
            for share in SHARES:
                if share in found[0]:
                    values[label][share] = statistics.median(f[share] for f in found)
        unit = next(iter(labels.values()))[0].get("unit", "tokens/s")
        # Less is better where the unit is no rate, and peers have no such rows.
        peers = [v["median"] for label, v in values.items() if not is_ours(label)]
        if peers:
            for label, value in values.items():
                if is_ours(label):
                    value["times_best_peer"] = value["median"] / max(peers)
        summary.append({"row": row, "unit": unit, "values": values})
    return summary


def is_ours(label):
    return label.split()[0] == "hadal"


def markdown(summary, head):
    labels = list(dict.fromkeys(label for row in summary for label in row["values"]))
    lines = [f"# {head['date']}, {head['host']}", ""]
    lines += [f"{head['cpu']}, {head['threads']} threads; medians of {head['rounds']} rounds. `command.txt` has the command,"]
    lines += ["`versions.json` the versions, `raw` the output of every run.", ""]
    lines += [f"| | {' | '.join(labels)} |", "|---|" + "---|" * len(labels)]
    for row in summary:
        cells = [cell(row["values"].get(label), row["unit"]) for label in labels]
        lines.append(f"| {row['row']}, {row['unit']} | {' | '.join(cells)} |")
    ours = [label for label in labels if is_ours(label)]
    notes = [note(row, label) for row in summary for label in ours if label in row["values"]]
    notes = [n for n in notes if n]
    if notes:
        lines += ["", f"| | | {' | '.join(SHARES.values())} | of the best peer |", "|---|---|---|---|---|---|", *notes]
    return "\n".join(lines) + "\n"


def cell(value, unit):
    if value is None:
        return ""
    return f"{value['median']:.2f}" if unit == "s" else f"{value['median']:.1f}"


def note(row, label):
    value = row["values"][label]
    shares = [value.get(key) for key in SHARES]
    times = value.get("times_best_peer")
    if not any(shares) and times is None:
        return None
    cells = ["" if share is None else f"{100 * share:.0f} %" for share in shares]
    return f"| {row['row']} | {label} | {' | '.join(cells)} | {'' if times is None else f'{times:.2f} ×'} |"


def versions(options):
    found = {"hadal": output([options.hadal, "--version"]), "python": platform.python_version()}
    found["commit"] = output(["git", "-C", ROOT, "describe", "--always", "--dirty", "--abbrev=40"])
    found["kernel"] = platform.release()
    found["cpu"] = cpu()
    if options.llama_bin:
        text = output([options.llama_bin / "llama-bench", "--version"], errors=True)
        found["llama.cpp"] = next((line for line in text.splitlines() if "version" in line), text[:200])
    if options.python:
        code = "import json, torch, transformers as t; print(json.dumps(dict(torch=torch.__version__, transformers=t.__version__)))"
        found |= last_json(output([options.python, "-c", code]))
    return found


def output(command, errors=False):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    return (done.stdout + (done.stderr if errors else "")).strip()


def cpu():
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1) if found else platform.machine()


def main():
    options = parse()
    record = Record(options)
    found = versions(options)
    (record.folder / "versions.json").write_text(json.dumps(found, indent=1) + "\n")
    machine = record.run("machine", [options.hadal, "--threads", options.threads, "bench", "machine", "--json"])
    summary = summarise(measure(record, contenders(options)))
    head = {"date": record.date, "host": options.host, "cpu": found["cpu"], "threads": options.threads, "rounds": options.rounds}
    whole = {**head, "versions": found, "machine": json.loads(machine), "failed": record.failed, "rows": summary}
    (record.folder / "summary.json").write_text(json.dumps(whole, indent=1) + "\n")
    text = markdown(summary, head)
    (record.folder / "summary.md").write_text(text)
    print(text)
    if record.failed:
        sys.exit(f"failed: {', '.join(record.failed)}")


if __name__ == "__main__":
    main()
