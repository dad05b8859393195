#!/usr/bin/env python3
"""`hadal serve` and llama.cpp's `llama-server` under the same load, on this machine, in turn, in one go.

    cargo build --release
    python benchmarks/serve.py --model MODEL_DIR [MODEL_DIR ..] [--llama-bin DIR --gguf FILE ..]

Each round starts every contender once, lets `hadal bench serve` ask it with each number of users, and ends it. Prompts are
random tokens, none of them known before; every answer has the same number of tokens. Medians over rounds count. Writes
command.txt, the raw reports and serve.json, serve.md into benchmarks/DATE-HOST.
"""

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import time
import urllib.request
from pathlib import Path

import run

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hadal", type=Path, default=ROOT / "target/release/hadal", help="the program")
    parser.add_argument("--model", type=Path, nargs="*", default=[], help="model directories for hadal")
    parser.add_argument("--llama-bin", type=Path, help="folder of llama-server")
    parser.add_argument("--gguf", type=Path, nargs="*", default=[], help="models for llama.cpp")
    parser.add_argument("--users", default="8,32", help="numbers of users")
    parser.add_argument("--input-tokens", type=int, default=256)
    parser.add_argument("--output-tokens", type=int, default=128)
    parser.add_argument("--turns", type=int, default=2, help="requests of each user")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--host", default=platform.node().split(".")[0] or "host", help="name of this machine in the record")
    parser.add_argument("--out", type=Path, default=HERE, help="where the record's folder is made")
    parser.add_argument("--lock", type=Path, help="a file to hold locked while something is measured")
    options = parser.parse_args(arguments)
    if not options.model and not options.gguf:
        parser.error("name something to measure: --model or --gguf")
    if options.gguf and not options.llama_bin:
        parser.error("--gguf needs --llama-bin")
    options.hf_model, options.python, options.train, options.go_on = [], None, None, False
    return options


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """A contender, from its start to its end."""

    def __init__(self, record, name, command, port):
        log = record.folder / "raw" / f"{name}.log"
        self.log = open(log, "w")
        self.process = subprocess.Popen([str(part) for part in command], stdout=self.log, stderr=self.log)
        self.url = f"http://127.0.0.1:{port}"
        end = time.time() + 300
        while time.time() < end and self.process.poll() is None:
            try:
                if urllib.request.urlopen(self.url + "/health", timeout=5).status == 200:
                    return
            except OSError:
                time.sleep(0.2)
        self.stop()
        raise RuntimeError(f"{name} did not start; see {log}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
        # Its log is of no use once it has ended well, and names this machine's folders.
        if self.process.returncode in (0, -15, 143):
            Path(self.log.name).unlink(missing_ok=True)


def contenders(options):
    for model in options.model:
        def command(port, users, model=model):
            return [options.hadal, "--threads", options.threads, "serve", "--model", model, "--port", port, "--log", "off",
                    "--max-batch-size", users]
        yield f"hadal {model.name}", command
    for gguf in options.gguf:
        def command(port, users, gguf=gguf):
            context = users * (options.input_tokens + options.output_tokens + 64)
            return [options.llama_bin / "llama-server", "-m", gguf, "-t", options.threads, "-tb", options.threads, "-np", users,
                    "-c", context, "--port", port, "--host", "127.0.0.1", "-b", 2048, "-ub", 512]
        yield f"llama.cpp {gguf.stem}", command


def measure(record, options, name, command, users, turn):
    port = free_port()
    label = f"serve-{name.replace(' ', '-')}-{users}-{turn}"
    with Server(record, label, command(port, users), port) as server:
        bench = [options.hadal, "bench", "serve", "--url", server.url, "--concurrency", users, "--json",
                 "--requests", users * options.turns, "--input-tokens", options.input_tokens,
                 "--output-tokens", options.output_tokens, "--seed", turn]
        if "llama" in name:
            bench += ["--extra", json.dumps({"cache_prompt": False})]
        return json.loads(record.run(label, bench))


def main():
    options = parse()
    record = run.Record(options, "command-serve.txt")
    found = {}
    for turn in range(options.rounds):
        for users in run.numbers(options.users):
            for name, command in contenders(options):
                report = measure(record, options, name, command, users, turn)
                found.setdefault(users, {}).setdefault(name, []).append(report)
    summary, lines = [], ["| Users | | tokens/s | TTFT p50 | p95 | ITL p50 | p95 | E2E p95 |", "|---:|---|---:|---:|---:|---:|---:|---:|"]
    for users, by_name in found.items():
        for name, reports in by_name.items():
            middle = lambda value: statistics.median(value(report) for report in reports)
            row = {"users": users, "name": name, "rounds": len(reports)}
            row["failed"] = sum(report["failed"] for report in reports)
            row["output_tokens_per_s"] = middle(lambda r: r["output_tokens_per_second"])
            for time_name in ("ttft", "itl", "e2e"):
                for part in ("p50", "p95"):
                    row[f"{time_name}_{part}"] = middle(lambda r: r[time_name][part])
            summary.append(row)
            times = " | ".join(f"{row[key]:.3f}" for key in ("ttft_p50", "ttft_p95", "itl_p50", "itl_p95", "e2e_p95"))
            lines.append(f"| {users} | {name} | {row['output_tokens_per_s']:.1f} | {times} |")
    (record.folder / "serve.json").write_text(json.dumps(summary, indent=1) + "\n")
    (record.folder / "serve.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
