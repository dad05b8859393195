"""Mixed load on a server for a long time: does it fail at anything, and does it hold ever more memory?

    python e2e/soak.py --seconds 1800
    python e2e/soak.py --seconds 1800 --model DIR --clients 32

It starts `hadal serve` (HADAL_BIN, or what cargo builds) with a small random model, or with the one in DIR, which has to have a
chat template. Clients chat, complete, stream and leave, call tools, send long prompts and shared beginnings, and make
mistakes. At the end it prints what was asked and the resident memory after the first minute (`--warm`) and at the end. The
exit code is 1 if that has grown by more than 5 % or if any answer was not what it should have been.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from conftest import Server, make_model, program
from wire import Client, Raw, number, post, stats, until

WORDS = "ocean trench depth pressure light cold snow whale vent ridge plate sediment current salt oxygen".split()
SHARED = " ".join(WORDS * 12)
TOOL = {"name": "dive", "description": "goes down", "parameters": {"type": "object", "properties": {"metres": {"type": "integer"}}, "required": ["metres"]}}
# The most that resident memory may grow after the first minute.
GROWTH = 1.05


class Wrong(Exception):
    """An answer is not what it should have been."""


def demand(what, answer):
    if not what:
        raise Wrong(repr(answer))


def text(rng, words):
    return " ".join(rng.choices(WORDS, k=words))


def message(content, **fields):
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 16, **fields}


# Kinds of requests. Each asks once, and raises `Wrong`.


def chat(client, rng):
    answer = client.ask("/v1/chat/completions", message(text(rng, 8), temperature=rng.choice([0, 0.7, 1]), n=rng.choice([1, 1, 2])))
    demand(answer.status == 200, answer)
    # An answer may be empty: its first token can be the one that ends it.
    demand(all(choice["finish_reason"] in ("stop", "length") for choice in answer.json["choices"]), answer)


def completion(client, rng):
    body = {"prompt": [text(rng, 5), text(rng, 9)], "max_tokens": 12, "logprobs": 2, "echo": rng.random() < 0.3, "stop": ["zzz"]}
    answer = client.ask("/v1/completions", body)
    demand(answer.status == 200 and len(answer.json["choices"]) == 2, answer)


def stream(client, rng):
    body = message(text(rng, 8), stream=True, stream_options={"include_usage": True}, return_progress=rng.random() < 0.5)
    answer = client.ask("/v1/chat/completions", body)
    events = answer.events()
    demand(answer.status == 200 and events[-1] == "[DONE]" and json.loads(events[-2])["usage"], answer)


def anthropic(client, rng):
    answer = client.ask("/v1/messages", message(text(rng, 8), stream=True))
    demand(answer.status == 200 and json.loads(answer.events()[-1])["type"] == "message_stop", answer)


def tools(client, rng):
    body = message(text(rng, 6), max_tokens=64, tools=[{"type": "function", "function": TOOL}], tool_choice="required", temperature=1)
    answer = client.ask("/v1/chat/completions", body)
    demand(answer.status == 200, answer)
    choice = answer.json["choices"][0]
    if choice["finish_reason"] == "tool_calls":
        call = choice["message"]["tool_calls"][0]["function"]
        demand(call["name"] == "dive" and isinstance(json.loads(call["arguments"])["metres"], int), answer)


def schema(client, rng):
    of = {"type": "object", "properties": {"a": {"enum": [1, 2, rng.randrange(9)]}}, "required": ["a"], "additionalProperties": False}
    body = message(text(rng, 6), max_tokens=64, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": of}})
    answer = client.ask("/v1/chat/completions", body)
    demand(answer.status == 200, answer)
    choice = answer.json["choices"][0]
    demand(choice["finish_reason"] == "length" or "a" in json.loads(choice["message"]["content"]), answer)


def long_prompt(client, rng):
    answer = client.ask("/v1/completions", {"prompt": [rng.randrange(3, 490) for _ in range(rng.randrange(300, 1200))], "max_tokens": 2})
    demand(answer.status == 200, answer)


def shared_beginning(client, rng):
    answer = client.ask("/v1/chat/completions", message(f"{SHARED} {text(rng, 3)}", max_tokens=4))
    demand(answer.status == 200 and "cached_tokens" in answer.json["usage"]["prompt_tokens_details"], answer)


MISTAKES = [
    ("/v1/chat/completions", {"messages": []}, 400),
    ("/v1/chat/completions", message("a", temperature=99), 400),
    ("/v1/chat/completions", message("a", model="nobody"), 404),
    ("/v1/chat/completions", message("a " * 20_000), 400),
    ("/v1/completions", {"prompt": "a", "n": 10**6}, 400),
    ("/v1/completions", b"{", 400),
    ("/nowhere", {}, 404),
]


def mistake(client, rng):
    path, body, status = rng.choice(MISTAKES)
    answer = client.ask(path, body)
    demand(answer.status == status, answer)


def leaves(client, rng):
    """Closes a stream in the middle, or before it begins, or stays and never reads."""
    streamed = rng.random() < 0.8
    body = json.dumps(message(text(rng, rng.choice([5, 200])), stream=streamed, max_tokens=600, ignore_eos=True)).encode()
    with Raw(client.url).send(post("/v1/chat/completions", body)) as raw:
        if streamed and rng.random() < 0.7:
            raw.rest(end=b"data: ")
        time.sleep(rng.random() / 5)


def looks(client, rng):
    for path in ("/metrics", "/stats", "/v1/models", "/readyz"):
        answer = client.ask(path)
        demand(answer.status == 200, answer)


KINDS = {chat: 4, completion: 3, stream: 4, anthropic: 2, tools: 2, schema: 1, long_prompt: 2, shared_beginning: 3, mistake: 2, leaves: 2, looks: 1}


class Load:
    """Clients that ask until they are told to end."""

    def __init__(self, url, clients, seed):
        self.url = url
        self.asked = Counter()
        self.failed = []
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(random.Random(seed * 1000 + i),), daemon=True) for i in range(clients)]
        for thread in self.threads:
            thread.start()

    def run(self, rng):
        client = Client(self.url, timeout=120)
        while not self.ended.is_set():
            kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
            problem = None
            try:
                kind(client, rng)
            except Exception as error:
                problem = f"{kind.__name__}: {type(error).__name__}: {error}"
                client.close()
                client = Client(self.url, timeout=120)
            with self.lock:
                self.asked[kind.__name__] += 1
                if problem:
                    self.failed.append(problem)
        client.close()

    def end(self):
        self.ended.set()
        for thread in self.threads:
            thread.join(180)


def soak(server, seconds, warm, clients, seed=0, most=GROWTH):
    """Runs the load; whether all went well and memory grew to at most `most` times what it was, and a report in lines."""
    load = Load(server.url, clients, seed)
    began, held = time.monotonic(), []
    while time.monotonic() - began < seconds and server.process.poll() is None:
        time.sleep(1)
        held.append(server.resident())
    load.end()
    if server.process.poll() is not None:
        return False, [f"the server has ended with {server.process.poll()}", *server.log[-10:]]
    until("all requests are over", lambda: stats(server.url)["running"] + stats(server.url)["waiting"] == 0, seconds=60)
    in_use = stats(server.url)["kv_blocks_in_use"]
    faults = number(server.url, "hadal_panics_total") + number(server.url, "hadal_engine_faults_total")
    cancelled = number(server.url, "hadal_cancelled_requests_total")
    first, last = statistics.median(held[warm : 2 * warm]), statistics.median(held[-warm:])
    growth = last / first
    mib = 1 << 20
    report = [
        f"{sum(load.asked.values())} requests of {clients} clients in {seconds} s: " + ", ".join(f"{n} {kind}" for kind, n in sorted(load.asked.items())),
        f"{len(load.failed)} failed, {cancelled:.0f} answers were left, {faults:.0f} faults, {in_use} blocks of latents still in use",
        f"resident memory: {first / mib:.1f} MiB after {warm} s, {last / mib:.1f} MiB at the end, {100 * (growth - 1):+.1f} %; at most {max(held) / mib:.1f}",
    ]
    parts = [statistics.median(held[i : i + 300]) / mib for i in range(0, len(held), 300)]
    report.append("over each five minutes: " + ", ".join(f"{part:.1f}" for part in parts))
    report += load.failed[:10]
    return not load.failed and not faults and not in_use and growth <= most, report


def start(model):
    # Little memory for latents, so that it is full before the first look at what is held.
    return Server(program(), "--model", model, "--kv-memory", 0.01, "--max-batch-size", 8, "--write-timeout", 2, "--log", "off")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=int, default=1800)
    parser.add_argument("--warm", type=int, default=60, help="seconds after which memory is first looked at, and over which medians are taken")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.seconds < 3 * arguments.warm:
        parser.error(f"--seconds is {arguments.seconds}, but must be three times --warm, {arguments.warm}, or more")
    with tempfile.TemporaryDirectory() as folder:
        server = start(arguments.model or make_model(program(), Path(folder) / "tiny"))
        try:
            well, report = soak(server, arguments.seconds, arguments.warm, arguments.clients, arguments.seed)
        finally:
            code = server.stop()
    print("\n".join(report))
    sys.exit(0 if well and code == 0 else 1)


if __name__ == "__main__":
    main()
