#!/usr/bin/env python3
"""What part of a server's time is not the model's: while a batch decodes, and every token goes out as an event of its own.

    cargo build --release
    python benchmarks/serve_overhead.py --model MODEL_DIR [MODEL_DIR ..]

Users ask at once, and are listened to once all their prompts are read and until the first of them has its answer. From
`/metrics` come the seconds that the engine's steps took, and what of them the model and the draws had; from `/proc` (Linux)
the seconds of processor time of each kind of thread. Writes serve-overhead.json and serve-overhead.md into
benchmarks/DATE-HOST.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

import run
import serve

TICK = os.sysconf("SC_CLK_TCK")
FROM = {"steps": "hadal_steps_total", "in steps": "hadal_step_seconds_total", "model": "hadal_model_seconds_total", "draws": "hadal_draw_seconds_total"}
# Threads that compute; all others are the server's.
COMPUTE = ("engine", "hadal-")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hadal", type=Path, default=run.ROOT / "target/release/hadal", help="the program")
    parser.add_argument("--model", type=Path, nargs="+", required=True)
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--input-tokens", type=int, default=64)
    parser.add_argument("--output-tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--host", default=platform.node().split(".")[0] or "host", help="name of this machine in the record")
    parser.add_argument("--out", type=Path, default=run.HERE, help="where the record's folder is made")
    options = parser.parse_args()
    options.gguf, options.hf_model, options.llama_bin, options.python, options.train, options.lock = [], [], None, None, None, None
    return options


def metrics(url):
    found = Counter()
    for line in urllib.request.urlopen(url + "/metrics", timeout=30).read().decode().splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            found[name.split("{")[0]] += float(value)
    return found


def processor(pid):
    """Seconds of each kind of thread."""
    found = Counter()
    for task in Path(f"/proc/{pid}/task").iterdir():
        name, rest = (task / "stat").read_text().split("(", 1)[1].rsplit(")", 1)
        fields = rest.split()
        found[name] += (int(fields[11]) + int(fields[12])) / TICK
    return found


def look(server):
    return time.monotonic(), metrics(server.url), processor(server.process.pid)


def listen(server, options):
    """Looks at both ends of the time in which all users' answers are being written, and nothing else is done."""
    users = options.users
    while True:
        found = metrics(server.url)
        if found["hadal_running_requests"] == users and found["hadal_generation_tokens_total"] >= users:
            break
        time.sleep(0.02)
    first = last = look(server)
    # Whoever came first has this many tokens more than the last, at most.
    spare = users * options.output_tokens // 8
    while metrics(server.url)["hadal_generation_tokens_total"] < users * options.output_tokens - spare:
        time.sleep(0.25)
        last = look(server)
    return first, last


def measure(record, options, model, turn):
    port = serve.free_port()
    command = [options.hadal, "--threads", options.threads, "serve", "--model", model, "--port", port, "--log", "off"]
    with serve.Server(record, f"overhead-{model.name}-{turn}", [*command, "--max-batch-size", options.users], port) as server:
        bench = [options.hadal, "bench", "serve", "--url", server.url, "--concurrency", options.users, "--requests", options.users]
        bench += ["--input-tokens", options.input_tokens, "--output-tokens", options.output_tokens, "--seed", turn]
        client = threading.Thread(target=lambda: subprocess.run([str(part) for part in bench], check=True, capture_output=True))
        client.start()
        (began, before, used), (ended, after, using) = listen(server, options)
        client.join()
    of = {key: after[name] - before[name] for key, name in FROM.items()}
    if not of["steps"]:
        raise SystemExit("the answers ended before they were looked at twice; give more --output-tokens")
    threads = {name: seconds - used[name] for name, seconds in using.items()}
    own = sum(seconds for name, seconds in threads.items() if not name.startswith(COMPUTE))
    return {
        "model": model.name,
        "users": options.users,
        "step_ms": 1e3 * of["in steps"] / of["steps"],
        "engine_share": (of["in steps"] - of["model"] - of["draws"]) / of["in steps"],
        "draw_share": of["draws"] / of["in steps"],
        "between_steps_share": 1 - of["in steps"] / (ended - began),
        "server_processor_share": own / (ended - began) / options.threads,
        "processor_seconds": threads,
    }


def main():
    options = parse()
    record = run.Record(options, "command-serve-overhead.txt")
    rows = []
    for model in options.model:
        rounds = [measure(record, options, model, turn) for turn in range(options.rounds)]
        middle = {key: statistics.median(one[key] for one in rounds) for key in rounds[0] if isinstance(rounds[0][key], float)}
        rows.append({"model": model.name, "users": options.users, "median": middle, "rounds": rounds})
    (record.folder / "serve-overhead.json").write_text(json.dumps(rows, indent=1) + "\n")
    lines = ["| Model | users | step, ms | engine in a step | draws | between steps | server's threads |", "|---|---:|---:|---:|---:|---:|---:|"]
    for row in rows:
        shares = " | ".join(f"{100 * row['median'][key]:.2f} %" for key in ("engine_share", "draw_share", "between_steps_share", "server_processor_share"))
        lines.append(f"| {row['model']} | {row['users']} | {row['median']['step_ms']:.2f} | {shares} |")
    (record.folder / "serve-overhead.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
