"""A server that speaks as `hadal serve` does and answers from a script, for tests of the page alone.

The first word of the last message chooses the answer. It serves the page's files with the strictest
Content-Security-Policy that the page has to live with, and remembers what it was asked.

    python e2e/mock.py        serves on a free port until interrupted
"""

import json
import math
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "crates" / "server" / "page"
CSP = (
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'; "
    "require-trusted-types-for 'script'"
)
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

MARKDOWN = """# The hadal zone

Below **6,000 metres**, in *trenches*, live amphipods and ~~no~~ few fish, see https://example.invalid/deep. The
pressure is $p = \\rho g h$, and `p` is about 1,100 bar.

1. Trenches
   - Mariana
   - Kuril–Kamchatka
2. Troughs

- [x] sampled
- [ ] mapped

| Trench | Depth (m) | Where |
|:--|--:|:-:|
| Mariana | 10,935 | Pacific |
| Tonga | 10,820 | Pacific |
| Java | 7,290 | Indian |

> The deep is the largest habitat on Earth.

\\[ \\int_0^h \\rho g \\, dz = \\rho g h \\]

A [link](https://example.invalid/a) and **“引号”**中文.
"""

CODE = (
    "The loop, in Rust:\n\n```rust\n/// Sums the depths of all soundings that are deeper than `limit`.\n"
    "fn sum(soundings: &[Sounding], limit: f64) -> f64 {\n"
    + "".join(
        f"    let depth_{i} = soundings[{i}].depth; // metres below the surface, corrected for the speed of sound in water of this salinity and temperature\n"
        for i in range(40)
    )
    + "    soundings.iter().map(|s| s.depth).filter(|d| *d > limit).sum()\n}\n```\n\nIt is linear."
)

HOSTILE = (
    '<script>window.owned = 1</script><img src=x onerror="window.owned = 2"><b style="color:red">bold?</b>\n\n'
    "[press me](javascript:window.owned=3) [data](data:text/html,<script>window.owned=4</script>) "
    "<javascript:window.owned=5> ![image](https://example.invalid/x.png) [ok](https://example.invalid/ok)\n\n"
    '[quote](https://example.invalid/"onmouseover="window.owned=6) &lt;script&gt;\n\n'
    + "A" * 4000
    + "\n\n"
    + "> " * 300
    + "deep\n\n"
    + "*" * 500
    + "many"
    + "_" * 500
    + "\n\n"
    + "שלום עולם, this turns to the right. \u202eesrever\u202c مرحبا بالعالم\n\n"
    "👩‍👩‍👧‍👦 🏴‍☠️ e\u0301 \u0000 Z̷̧̢̛a̵̡͝l̸͜g̶o\n\n"
    "- [ ] <input autofocus onfocus=window.owned=7>\n\n"
    '|<svg onload="window.owned=8">|b|\n|--|--|\n|`<i>`|</td></table>|\n\n'
    '```html"><script>\n<script>window.owned = 9</script>\n' + "x" * 3000 + "\nthis fence is never closed"
)

REASONING = "First, *what* is asked? The depth.\n\nThe Mariana Trench is the deepest; 10,935 m is a good figure."


class Mock:
    """A running mock. `requests` holds `(path, headers, body)` of every call; `left` counts answers nobody waited for."""

    def __init__(self, keys=(), models=("hadal-mock",), gap=0.002):
        self.keys = set(keys)
        self.models = list(models)
        self.gap = gap
        self.requests = []
        self.left = 0
        self.refusals = {}
        self.started = time.monotonic()
        self.stats_error = None
        self.totals = {}
        self.closed = False
        handler = type("Handler", (Handler,), {"mock": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def bodies(self):
        """The bodies of all requests for an answer."""
        return [body for path, _, body in self.requests if path == "/v1/chat/completions"]

    def asked(self, path):
        return sum(each == path for each, _, _ in self.requests)

    def refuses_once(self, word):
        """True for the first request of this word, false for those after it."""
        self.refusals[word] = self.refusals.get(word, 0) + 1
        return self.refusals[word] == 1

    def close(self):
        """Stops listening, and answers no more on connections that are open."""
        self.closed = True
        self.server.shutdown()
        self.server.server_close()


class Handler(BaseHTTPRequestHandler):
    mock: Mock
    protocol_version = "HTTP/1.1"

    def parse_request(self):
        self.close_connection = self.mock.closed
        return not self.mock.closed and super().parse_request()

    def do_GET(self):
        # Judged before it is counted: a test may change the keys as soon as it sees the count.
        known = self.is_known()
        self.mock.requests.append((self.path, dict(self.headers), None))
        if self.path == "/" or self.path.startswith("/ui/"):
            self.page(self.path.removeprefix("/ui/") if self.path != "/" else "index.html")
        elif not known:
            self.refuse(401, "the API key is missing or not known", "invalid_api_key")
        elif self.path == "/v1/models":
            data = [{"id": id, "object": "model", "max_model_len": 4096} for id in self.mock.models]
            self.json(200, {"object": "list", "data": data})
        elif self.path == "/stats":
            if self.mock.stats_error:
                self.refuse(500, self.mock.stats_error, "internal")
            else:
                self.json(200, stats(self.mock))
        else:
            self.refuse(404, f"there is no {self.path}", "not_found")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.mock.requests.append((self.path, dict(self.headers), body))
        if not self.is_known():
            self.refuse(401, "the API key is missing or not known", "invalid_api_key")
        elif self.path == "/v1/chat/completions":
            try:
                self.answer(body)
            except (BrokenPipeError, ConnectionResetError):
                self.mock.left += 1
                self.close_connection = True
        else:
            self.refuse(404, f"there is no {self.path}", "not_found")

    def answer(self, body):
        if body["model"] not in self.mock.models:
            return self.refuse(404, f"there is no model {body['model']}", "model_not_found")
        said = body["messages"][-1]["content"]
        word = said.split()[0].lower() if said.split() else ""
        match word:
            case "busy" if self.mock.refuses_once("busy"):
                return self.refuse(
                    429, "64 requests wait already, which is the limit", "queue_full", {"Retry-After": "2"}
                )
            case "full":
                return self.refuse(503, "the server is draining", "draining", {"Retry-After": "90"})
            case "bad":
                return self.refuse(400, "`temperature` is 9, but must be from 0 to 2", "invalid_value")
            case "proxy":
                return self.send(502, b"<html><script>window.owned = 1</script></html>", "text/html")
        self.begin()
        match word:
            case "hello":
                self.speak(body, "Hello there. How deep shall we go?")
            case "markdown":
                self.speak(body, MARKDOWN)
            case "code":
                self.speak(body, CODE, size=60)
            case "hostile":
                self.speak(body, HOSTILE, size=200)
            case "reason":
                self.speak(body, "About **10,935 m**.", reasoning=REASONING)
            case "slow":
                self.read_prompt(total=8000, cache=1000, seconds=3)
                self.speak(body, "That was long.")
            case "endless":
                self.speak(body, " ".join(f"Number {i} is one." for i in range(100_000)))
            case "break":
                self.speak(body, "This answer will not", end=False)
                self.event(
                    {
                        "error": {
                            "message": "the engine stopped: out of memory",
                            "type": "server_error",
                            "code": "engine",
                        }
                    }
                )
            case "cut":
                self.speak(body, "This answer is cut", end=False)
            case "limit":
                self.speak(body, "As long as", finish="length")
            case _:
                self.speak(body, f"You said: {said}")
        self.wfile.write(b"0\r\n\r\n")

    def begin(self):
        self.send_response(200)
        for name, value in {
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-store",
            "Transfer-Encoding": "chunked",
            "x-request-id": "req-1",
        }.items():
            self.send_header(name, value)
        self.end_headers()

    def read_prompt(self, total, cache, seconds):
        steps = 60
        for step in range(steps + 1):
            processed = cache + (total - cache) * step // steps
            progress = {
                "total": total,
                "cache": cache,
                "processed": processed,
                "time_ms": 1000 * seconds * step / steps,
            }
            self.event({"choices": [], "prompt_progress": progress})
            time.sleep(seconds / steps)

    def speak(self, body, text, reasoning="", finish="stop", end=True, size=4):
        self.delta({"role": "assistant", "content": ""})
        tokens = 0
        for name, whole in (("reasoning_content", reasoning), ("content", text)):
            for at in range(0, len(whole), size):
                self.delta({name: whole[at : at + size]})
                tokens += 1
                if tokens % 20 == 0:
                    self.write(": still here\n\n")
                time.sleep(self.mock.gap)
        if not end:
            return
        self.delta({}, finish)
        prompt = sum(len(message["content"]) for message in body["messages"]) // 4 + 8
        self.event(
            {
                "choices": [],
                "usage": {
                    "prompt_tokens": prompt,
                    "completion_tokens": tokens,
                    "total_tokens": prompt + tokens,
                    "prompt_tokens_details": {"cached_tokens": prompt // 2},
                    "completion_tokens_details": {"reasoning_tokens": math.ceil(len(reasoning) / size)},
                },
            }
        )
        self.write("data: [DONE]\n\n")

    def delta(self, delta, finish=None):
        self.event({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    def event(self, value):
        self.write(f"data: {json.dumps(value)}\n\n")

    def write(self, text):
        data = text.encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def is_known(self):
        return not self.mock.keys or self.headers.get("Authorization", "").removeprefix("Bearer ") in self.mock.keys

    def page(self, name):
        path = PAGE / name
        if "/" in name or not path.is_file():
            return self.refuse(404, f"there is no {self.path}", "not_found")
        self.send(200, path.read_bytes(), TYPES[path.suffix], {"Content-Security-Policy": CSP})

    def refuse(self, status, message, code, headers=None):
        self.json(status, {"error": {"message": message, "type": "error", "param": None, "code": code}}, headers)

    def json(self, status, value, headers=None):
        self.send(status, json.dumps(value).encode(), "application/json", headers)

    def send(self, status, data, kind, headers=None):
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": len(data), "x-request-id": "req-1"} | (headers or {})
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def stats(mock):
    """Numbers that move as those of a server at work."""
    t = time.monotonic() - mock.started
    running = round(5 + 4 * math.sin(t / 9))
    latency = {"count": 40, "p50": 0.21 + 0.05 * math.sin(t / 7), "p95": 0.6 + 0.2 * math.sin(t / 5), "p99": 0.9}
    return {
        "model": mock.models[0],
        "version": "1",
        "state": "ready",
        "uptime_seconds": t,
        "max_model_len": 4096,
        "max_batch_size": 32,
        "running": running,
        "waiting": max(0, round(3 * math.sin(t / 4))),
        "requests_total": 1200 + int(t * 2),
        "failed_total": 1,
        "rejected_total": 12,
        "cancelled_total": 7,
        "preemptions_total": 3,
        "prompt_tokens_total": 90_000 + int(900 * t + 2000 * math.sin(t / 6)),
        "generation_tokens_total": 50_000 + int(140 * t + 200 * math.sin(t / 5)),
        "cached_tokens_total": 41_000 + int(500 * t),
        "queried_tokens_total": 90_000 + int(900 * t),
        "steps_total": 6000 + int(30 * t),
        "kv_blocks": 1000,
        "kv_blocks_used": round(620 + 100 * math.sin(t / 20)),
        "kv_blocks_in_use": 40 * running,
        "kv_block_tokens": 64,
        "kv_disk": {
            "bytes": 3_400_000_000,
            "quota_bytes": 8_589_934_592,
            "hits_total": 211,
            "writes_total": 540,
            "evictions_total": 0,
            "damaged_total": 0,
        },
        "ttft_seconds": latency,
        "itl_seconds": {name: value if name == "count" else value / 10 for name, value in latency.items()},
        "e2e_seconds": {name: value if name == "count" else value * 20 for name, value in latency.items()},
        "mtp": {"proposed_total": 20_000 + int(60 * t), "accepted_total": 16_000 + int(50 * t), "speedup": 1.42},
        "experts": {"balancedness": [None] * 3 + [0.55 + 0.4 * abs(math.sin(i * 1.7 + t / 30)) for i in range(58)]},
    } | mock.totals


if __name__ == "__main__":
    running_mock = Mock(gap=0.02)
    print(running_mock.url, flush=True)
    threading.Event().wait()
