"""What the server hears from those who mean it ill, or do not know what they do.

Every class of `spec/serving.md` 2.2 that can come through the port has a test. After each of them the server answers
as before, nothing in it has panicked, and it holds no more memory than before.

    pytest e2e/test_abuse.py
"""

import copy
import gzip
import json
import math
import random
import socket
import time

import pytest

from conftest import TOKENIZER, Server
from wire import Client, Raw, ask, chat, number, numbers, post, stats, statuses, until

# What the allocator may keep for later: each of its pools a body or two. That it does not add up has a test of its own.
SLACK = 256 << 20
MIB = 1 << 20
# The largest bodies there may be, of the kinds that take the most room as values.
BOMBS = [
    b"[" * (32 * MIB),
    b'{"a":' * (6 * MIB),
    b'{"messages":' + b"[0" + b",0" * (15 * MIB) + b"]}",
    b'{"messages":' + b"[[]" + b",[]" * (10 * MIB) + b"]}",
    b'{"prompt":[' + b'{"a":0},' * 500_000 + b"0]}",
    b"{" + b",".join(b'"%x":0' % i for i in range(2 * MIB)) + b"}",
    b"{" + b",".join(b'"%x":0' % i for i in range(MIB)) + b"}",
    b'{"model":"' + b"\\u0000" * (5 * MIB) + b'"}',
    b'{"prompt":"' + b"a" * (31 * MIB) + b'"}',
    b'{"prompt":' + b"1" * (31 * MIB) + b"}",
    b" " * (32 * MIB),
]
# Seconds that clients have for headers, for a body, and to read a piece of an answer.
PATIENCE = 1


@pytest.fixture(scope="module")
def target(hadal, models):
    server = Server(
        hadal, "--model", models("v3_1"), "--served-model-name", "tiny", "--max-model-len", 1024, "--max-batch-size", 4,
        "--header-timeout", PATIENCE, "--body-timeout", PATIENCE, "--write-timeout", PATIENCE, "--seed", 1,
    )
    yield server
    assert server.stop() == 0, "\n".join(server.log[-20:])


@pytest.fixture(autouse=True)
def unharmed(target):
    """The server is after a test what it was before it."""
    if not hasattr(target, "held"):
        ask(target.url, "/v1/chat/completions", chat())
        target.held = target.resident()
    yield
    assert target.process.poll() is None
    answer = ask(target.url, "/v1/chat/completions", chat())
    assert answer.status == 200 and answer.json["usage"]["completion_tokens"] > 0
    assert target.status("/livez") == 200
    found = numbers(target.url)
    faults = {name: value for name, value in found.items() if "panics_total" in name or "faults_total" in name}
    assert len(faults) == 2 and not any(faults.values()), faults
    until("nothing is left running", lambda: stats(target.url)["running"] + stats(target.url)["waiting"] == 0)
    assert target.resident() < target.held + SLACK, (target.held, target.resident())


def refused(answer, status, code=None, param=None):
    assert answer.status == status, answer
    assert answer.headers["x-request-id"]
    error = answer.json["error"]
    assert error["message"] and error["code"], answer
    if code:
        assert error["code"] == code, answer
    if param:
        assert error["param"] == param, answer


# The wire.


@pytest.mark.parametrize(
    "name, sent",
    {
        "noise": bytes(range(256)) * 8,
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 500,
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "no version": b"GET /livez\r\n\r\n",
        "version": b"GET /livez HTTP/9.1\r\n\r\n",
        "method": b"G\x00T /livez HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "target": b"GET /liv ez HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "NUL in a value": b"GET /livez HTTP/1.1\r\nhost: localhost\r\na: b\x00c\r\n\r\n",
        "CR in a value": b"GET /livez HTTP/1.1\r\nhost: localhost\r\nx-request-id: a\rset-cookie: b\r\n\r\n",
        "folded": b"GET /livez HTTP/1.1\r\nhost: localhost\r\na: b\r\n c\r\n\r\n",
        "space before the colon": b"GET /livez HTTP/1.1\r\nhost: localhost\r\ncontent-length : 3\r\n\r\nabc",
        "no colon": b"GET /livez HTTP/1.1\r\nhost: localhost\r\nnonsense\r\n\r\n",
        "long target": b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "two lengths": post("/v1/chat/completions", b"{}", "content-length: 2", "content-length: 3"),
        "negative length": post("/v1/chat/completions", b"{}", "content-length: -2"),
        "huge length": post("/v1/chat/completions", b"{}", "content-length: 99999999999999999999999"),
        "length in words": post("/v1/chat/completions", b"{}", "content-length: two"),
        "unknown coding": post("/v1/chat/completions", b"{}", "transfer-encoding: gzip"),
        "coding behind chunked": post("/v1/chat/completions", b"0\r\n\r\n", "transfer-encoding: chunked, identity"),
        "chunk of no size": post("/v1/chat/completions", b"xyz\r\n{}\r\n0\r\n\r\n", "transfer-encoding: chunked"),
        "huge chunk": post("/v1/chat/completions", b"fffffffffffffffff\r\n{}", "transfer-encoding: chunked"),
        "negative chunk": post("/v1/chat/completions", b"-2\r\n{}\r\n0\r\n\r\n", "transfer-encoding: chunked"),
    }.items(),
)
def test_what_is_no_http_ends_its_connection(target, name, sent):
    with Raw(target.url) as client:
        found = client.send(sent).rest()
        assert all(400 <= status < 500 for status in statuses(found)), (name, found)
        assert len(statuses(found)) <= 1 and b"set-cookie" not in found.lower(), (name, found)


def test_a_body_of_two_lengths_hides_no_request(target):
    inner = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n"
    # Whoever believes the length takes the inner request for the body; whoever believes the chunks takes it for a request.
    for headers in (["content-length: 47", "transfer-encoding: chunked"], ["transfer-encoding: chunked", "content-length: 47"]):
        with Raw(target.url) as client:
            found = client.send(post("/v1/chat/completions", b"0\r\n\r\n" + inner, *headers)).rest()
            assert statuses(found) == [400] and b"connection: close" in found.lower(), found
            assert b"hadal_" not in found


def test_header_bombs(target):
    start = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n"
    for bomb in (b"a: " + b"b" * (64 << 10) + b"\r\n", b"a: b\r\n" * 10_000, b"a: " + b"b" * (8 << 20) + b"\r\n"):
        with Raw(target.url) as client:
            found = client.send(start + bomb + b"\r\n").rest()
            assert statuses(found) in ([431], []), found
    # Without an end.
    with Raw(target.url) as client:
        for _ in range(1000):
            client.send(b"a: " + b"b" * 1000 + b"\r\n" if _ else start)
        assert statuses(client.rest()) in ([431], [])


def test_slow_headers_hold_nobody_up(target):
    slow = [Raw(target.url) for _ in range(100)]
    start = time.monotonic()
    for client in slow:
        client.send(b"GET /livez HTTP/1.1\r\n")
    for _ in range(4):
        for client in slow:
            client.send(b"a: b\r\n")
        assert ask(target.url, "/v1/chat/completions", chat(), timeout=5).status == 200
        time.sleep(PATIENCE / 2)
    for client in slow:
        assert statuses(client.rest()) in ([], [408])
        client.close()
    assert time.monotonic() - start < 10 * PATIENCE


def test_whoever_says_nothing_is_let_go(target):
    with Raw(target.url) as client:
        assert client.rest() == b""
    with Raw(target.url) as client:
        client.send(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert statuses(client.rest()) == [200]


@pytest.mark.parametrize("header", ["content-length: 1000", "transfer-encoding: chunked"])
def test_slow_bodies_are_given_up(target, header):
    slow = [Raw(target.url).send(post("/v1/chat/completions", b"", header)) for _ in range(50)]
    for _ in range(3):
        for client in slow:
            client.send(b"1\r\n{\r\n" if "chunked" in header else b"{")
        time.sleep(PATIENCE / 4)
        assert ask(target.url, "/v1/chat/completions", chat(), timeout=5).status == 200
    for client in slow:
        found = client.rest()
        assert statuses(found) == [408] and b"body_timeout" in found, found
        client.close()


def test_names_of_any_length_are_refused_at_once(target):
    """Whoever misspells a field is told what it may have meant, but not whatever that takes."""
    start = time.monotonic()
    for path in ["/v1/chat/completions", "/v1/messages", "/tokenize"]:
        body = chat(**{"temperatur" * 2_000_000: 1})
        refused(ask(target.url, path, body), 400)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("header", [f"content-length: {32 << 20}", "transfer-encoding: chunked"])
def test_announced_bodies_keep_nobody_out(serve, header):
    # With the time that clients have by default, half a minute.
    server = serve("--max-model-len", 1024)
    silent = [Raw(server.url).send(post("/v1/chat/completions", b"", header)) for _ in range(20)]
    # Nor do large ones that stop just before their end.
    large = b" " * ((32 << 20) - 1)
    silent += [Raw(server.url).send(post("/v1/chat/completions", large, f"content-length: {32 << 20}")) for _ in range(2)]
    start = time.monotonic()
    assert ask(server.url, "/v1/chat/completions", chat(), timeout=20).status == 200
    assert time.monotonic() - start < 5
    for client in silent:
        client.close()


@pytest.mark.parametrize("header", ["content-length: 1000", "transfer-encoding: chunked"])
def test_a_body_that_breaks_off_is_no_request(target, header):
    sent = b'20\r\n{"messages"' if "chunked" in header else b'{"messages"'
    with Raw(target.url) as client:
        found = client.send(post("/v1/chat/completions", sent, header)).end().rest()
        assert statuses(found) in ([400], []), found
    with Raw(target.url) as client:
        client.send(post("/v1/chat/completions", sent, header))


def test_bodies_that_are_too_large_are_not_read(target):
    with Raw(target.url) as client:
        found = client.send(post("/v1/chat/completions", b"", f"content-length: {(32 << 20) + 1}")).rest()
        assert statuses(found) == [413] and b"body_too_large" in found
    with Raw(target.url) as client:
        client.send(post("/v1/chat/completions", b"", "transfer-encoding: chunked"))
        chunk = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
        for _ in range(40):
            client.send(chunk)
        assert statuses(client.rest()) == [413]
    # It is told so even if it sends everything first.
    refused(ask(target.url, "/v1/chat/completions", b" " * (40 << 20)), 413, "body_too_large")
    # As large as may be, it is read.
    answer = ask(target.url, "/v1/chat/completions", json.dumps(chat()).encode().ljust(32 << 20))
    assert answer.status == 200, answer


def test_who_stops_reading_loses_his_answer(target):
    body = json.dumps(chat(stream=True, n=4, max_tokens=900, ignore_eos=True, logprobs=True, top_logprobs=20)).encode()
    readers = [Raw(target.url, receive_buffer=4096).send(post("/v1/chat/completions", body)) for _ in range(2)]
    until("answers are written", lambda: stats(target.url)["running"] > 0)
    # They stay, and read nothing: slots and connections are free all the same.
    until("their slots are free", lambda: stats(target.url)["running"] + stats(target.url)["waiting"] == 0, seconds=60)
    until("their requests are over", lambda: number(target.url, "hadal_http_requests_in_flight") == 1)
    for reader in readers:
        found = reader.rest()
        assert b"[DONE]" not in found and found.startswith(b"HTTP/1.1 200"), found[-200:]
        reader.close()


def test_old_and_odd_requests_are_answered(target):
    port = target.url.rsplit(":", 1)[1].encode()
    with Raw(target.url) as client:
        assert statuses(client.send(b"GET /livez HTTP/1.0\r\n\r\n").rest()) == [200]
    with Raw(target.url) as client:
        sent = b"GET http://127.0.0.1:" + port + b"/livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        assert statuses(client.send(sent).rest()) == [200]
    for line in (b"OPTIONS * HTTP/1.1", b"CONNECT other:443 HTTP/1.1", b"TRACE / HTTP/1.1", b"DELETE /v1/models HTTP/1.1"):
        with Raw(target.url) as client:
            found = client.send(line + b"\r\nhost: localhost\r\nconnection: close\r\n\r\n").rest()
            assert all(400 <= status < 500 for status in statuses(found)), (line, found)
    # A name that somebody else's page may have let point here.
    for host in (b"evil", b"evil:80", b"127.0.0.1.evil", b"localhost.evil", b"[::1]evil", b"", b"\xff"):
        with Raw(target.url) as client:
            found = client.send(b"GET /stats HTTP/1.1\r\nhost: " + host + b"\r\nconnection: close\r\n\r\n").rest()
            assert statuses(found) in ([403], [400]), (host, found)
    with Raw(target.url) as client:
        found = client.send(b"GET http://evil/stats HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").rest()
        assert statuses(found) == [403], found


def test_requests_in_a_row_are_answered_in_order(target):
    ids = [f"request-{i}" for i in range(200)]
    sent = b"".join(f"GET /livez HTTP/1.1\r\nhost: localhost\r\nx-request-id: {i}\r\n\r\n".encode() for i in ids)
    bad = post("/v1/chat/completions", b"{}", "x-request-id: last", "connection: close")
    with Raw(target.url) as client:
        found = client.send(sent + bad).rest()
    assert statuses(found) == [200] * 200 + [400]
    got = [line[14:] for line in found.decode().split("\r\n") if line.startswith("x-request-id: ")]
    assert got == [*ids, "last"]


def test_names_of_requests_are_names(target):
    for given in ("a" * 129, "a" * 10_000, "a b", "ä", "a/b", '"', "a;b", ""):
        answer = ask(target.url, "/livez", x_request_id=given.encode())
        assert answer.status == 200 and answer.headers["x-request-id"] != given
        assert answer.headers["x-request-id"].isalnum()
    assert ask(target.url, "/livez", x_request_id="a.B_c-9").headers["x-request-id"] == "a.B_c-9"


def test_only_plain_json_is_read(target):
    body = json.dumps(chat()).encode()
    for coding, sent in (("gzip", gzip.compress(body)), ("br", body), ("zstd", body), ("identity, gzip", body), ("x", body)):
        refused(ask(target.url, "/v1/chat/completions", sent, content_encoding=coding), 415, "unsupported_media_type")
    bomb = gzip.compress(b" " * (256 << 20))
    refused(ask(target.url, "/v1/chat/completions", bomb, content_encoding="gzip"), 415, "unsupported_media_type")
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "json", "a" * 9000):
        refused(ask(target.url, "/v1/chat/completions", body, content_type=kind), 415, "unsupported_media_type")
    for path in ("/v1/messages", "/v1/completions", "/tokenize", "/detokenize", "/apply-template", "/v1/messages/count_tokens"):
        assert ask(target.url, path, body, content_type="text/plain").status == 415
    assert ask(target.url, "/v1/chat/completions", body, content_type="Application/JSON; charset=utf-8").status == 200


def test_paths_lead_nowhere_else(target):
    secret = b"root:"
    for path in (
        "/ui/..%2f..%2f..%2fetc%2fpasswd", "/ui/%2e%2e/%2e%2e/etc/passwd", "/ui/../../etc/passwd", "/ui/..%5c..%5cetc",
        "/ui/%00", "/ui/app.js%00.css", "/ui/" + "a" * 5000, "/ui//etc/passwd", "/ui/%ff%fe", "//etc/passwd", "/%2e%2e",
        "/v1/models/../../etc/passwd", "/v1/models/..%2f..%2fetc%2fpasswd", "/v1/models/%00", "/v1/models/%ff/versions",
        "/v1/models/tiny@../../etc", "/v1/models/tiny@-1", "/v1/models/tiny@99999999999999999999999",
        "/v1/models/../versions", "/admin", "/debug/pprof", "/v1/invocations", "/.env", "/metrics/../etc/passwd",
    ):
        answer = ask(target.url, path)
        assert 400 <= answer.status < 500 and secret not in answer.body, (path, answer)
    for model in ("../../etc/passwd", "tiny@../../x", "tiny/../tiny", "/etc", "tiny\0", "tiny@1@1", "tiny@", "@1", "a" * 100_000, ""):
        refused(ask(target.url, "/v1/chat/completions", chat(model=model)), 404, "model_not_found", "model")


# Bodies.


def watched(target, path, body):
    """Sends a body that has to be refused, soon. How many more bytes the server held meanwhile."""
    before, most = target.resident(), 0
    with Raw(target.url, timeout=60) as client:
        client.send(post(path, body))
        client.socket.settimeout(0.01)
        found, end = b"", time.monotonic() + 30
        while not found and time.monotonic() < end:
            most = max(most, target.resident() - before)
            try:
                found = client.socket.recv(1 << 16)
            except TimeoutError:
                pass
    assert statuses(found) and 400 <= statuses(found)[0] < 500, (body[:20], found)
    return most


def test_deep_and_wide_json_takes_little_memory(target):
    most = max(watched(target, path, bomb) for bomb in BOMBS for path in ("/v1/chat/completions", "/v1/completions"))
    print(f"the largest bodies took {most / MIB:.0f} MiB at most")
    assert most < 256 * MIB


def test_text_takes_little_memory_wherever_it_stands(target):
    """Text becomes tokens only where it can fit the context, and it is not only messages that are text."""
    text = "a b " * (5 * MIB)
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": text}}
    tool = {"type": "function", "function": {"name": "f", "description": text, "parameters": {"type": "object"}}}
    user = {"role": "user", "content": "a"}
    bodies = [
        ("/v1/chat/completions", chat(text)),
        ("/v1/chat/completions", chat(tools=[tool])),
        ("/v1/chat/completions", chat(tools=[{"type": "function", "function": {"name": "f", "parameters": {"description": text}}}])),
        ("/v1/chat/completions", {"messages": [user, {"role": "assistant", "tool_calls": [call]}, user]}),
        ("/v1/completions", {"prompt": text}),
        ("/v1/completions", {"prompt": "a", "suffix": text}),
        ("/v1/messages", {**chat(), "system": text}),
        ("/v1/messages", {**chat(), "tools": [{"name": "f", "description": text, "input_schema": {"type": "object"}}]}),
        ("/v1/messages/count_tokens", {"messages": chat(text)["messages"]}),
        ("/tokenize", {"prompt": text}),
        ("/tokenize", {"messages": [user], "tools": [tool]}),
    ]
    most = max(watched(target, path, json.dumps(body).encode()) for path, body in bodies)
    print(f"the longest texts took {most / MIB:.0f} MiB at most")
    assert most < 512 * MIB


def test_what_is_taken_for_large_bodies_does_not_add_up(target):
    bodies = [*BOMBS, json.dumps(chat("a b " * (5 * MIB))).encode(), json.dumps(chat("a" * 20_000)).encode()]
    held = []
    for _ in range(6):
        for body in bodies:
            assert 400 <= ask(target.url, "/v1/chat/completions", body).status < 500
        held.append(target.resident())
    print("held after rounds of large bodies: " + ", ".join(f"{bytes / MIB:.0f}" for bytes in held) + " MiB")
    assert held[-1] < 1.1 * max(held[:3])


NESTED = {
    "objects": b'{"messages":' + b'{"a":' * 65 + b"0" + b"}" * 65 + b"}",
    "lists": b'{"messages":' + b"[" * 65 + b"]" * 65 + b"}",
    "a million": b'{"messages":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}",
}


@pytest.mark.parametrize("name", NESTED)
def test_nesting_ends(target, name):
    for path in ("/v1/chat/completions", "/v1/messages", "/tokenize"):
        refused(ask(target.url, path, NESTED[name]), 400, "nested_too_deeply")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"nul", b"{}{}", b"{} x", b'{"a":1,}', b"{'a':1}", b"NaN", b'{"temperature":NaN}', b'{"temperature":Infinity}',
     b'{"temperature":-Infinity}', b'{"temperature":01}', b'{"temperature":1e999}', b'{"n":+1}', b'\xff\xfe{\x00}\x00',
     b'\xef\xbb\xbf{}', b'{"messages":"\xff"}', b'{"messages":"\xed\xa0\x80"}', b'{"messages":"\xc0\x80"}',
     b'{"messages":"\\ud800"}', b'{"messages":"\\udc00\\ud800"}', b'{"messages":"\\x41"}', b'{"messages":"a\x00b"}',
     b'{"messages":"a\nb"}', b"\x00", b"{}\x00"],
)
def test_what_is_no_json_is_refused(target, body):
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/messages", "/tokenize"):
        refused(ask(target.url, path, body), 400, "invalid_json")


@pytest.mark.parametrize("body", [b"null", b"1", b'"x"', b"[]", b"true", b"[{}]"])
def test_a_request_is_an_object(target, body):
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/messages", "/detokenize"):
        refused(ask(target.url, path, body), 400, "invalid_type")


HUGE = [10**6, 2**31, 2**32, 2**53, 2**63, 2**64 - 1, 2**64, 10**30, -1, -(2**63), 0.5, 1e300, "1", [], {}, True]


@pytest.mark.parametrize("field", ["n", "best_of", "max_tokens", "min_tokens", "top_logprobs", "logprobs", "top_k", "seed"])
def test_numbers_have_ceilings(target, field):
    client = Client(target.url)
    for path in ("/v1/chat/completions", "/v1/completions"):
        for value in HUGE:
            body = {"messages": chat()["messages"]} if path.endswith("chat/completions") else {"prompt": "a"}
            body = {"max_tokens": 2, **body, field: value}
            answer = client.ask(path, body)
            # A few of these are fine: whole numbers for seed and top_k, and a flag where one is asked for.
            assert answer.status == 400 or (answer.status == 200 and field in ("seed", "top_k", "logprobs")), (field, value, answer)
    refused(client.ask("/v1/completions", {"prompt": "a", "n": 10**6}), 400, "invalid_value", "n")
    refused(client.ask("/v1/completions", {"prompt": "a", "best_of": 17}), 400, "invalid_value", "best_of")
    refused(client.ask("/v1/completions", {"prompt": ["a"] * 128, "n": 16}), 400, "too_many_entries")
    refused(client.ask("/v1/completions", {"prompt": ["a"] * 129}), 400, "too_many_entries")


@pytest.mark.parametrize(
    "field", ["temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"]
)
def test_amounts_have_ranges(target, field):
    client = Client(target.url)
    for value in (1e300, -1e300, 1e-320, -3, 101, 2**64, "0", [], {}):
        answer = client.ask("/v1/chat/completions", chat(**{field: value}))
        assert answer.status == 400 or (answer.status == 200 and value == 1e-320), (field, value, answer)
    for text in (b"1e400", b"-1e400", b"1" * 400, b"0." + b"0" * 5000 + b"1"):
        body = b'{"messages":[{"role":"user","content":"a"}],"max_tokens":2,"%s":%s}' % (field.encode(), text)
        assert client.ask("/v1/chat/completions", body).status in (200, 400)


def test_empty_prompts_are_refused(target):
    url = target.url
    for prompt in ([], [[]], [[1], []], {}, None, 1, [None], [{}], [[[]]], [True], ["a", 1], [1, "a"]):
        answer = ask(url, "/v1/completions", {"prompt": prompt})
        assert answer.status == 400, (prompt, answer)
        refused(answer, 400)
    for messages in ([], [{}], [None], "x", {}, [[]], [{"role": "user"}], [{"role": "user", "content": None}]):
        refused(ask(url, "/v1/chat/completions", {"messages": messages}), 400)
        refused(ask(url, "/v1/messages", {"messages": messages, "max_tokens": 1}), 400)
    for content in ("", "\0", "\u2028", "\uffff", "a" * 3 + "\0"):
        assert ask(url, "/v1/chat/completions", chat(content)).status == 200
        assert ask(url, "/v1/completions", {"prompt": "a" + content, "max_tokens": 2}).status == 200


def test_ids_are_those_of_the_vocabulary(target):
    client = Client(target.url)
    for wrong in (-1, 519, 520, 10**6, 2**31, 2**32, 2**32 + 5, 2**64, 1.5, "1", None, True, []):
        refused(client.ask("/v1/completions", {"prompt": [5, wrong], "max_tokens": 1}), 400)
        refused(client.ask("/detokenize", {"tokens": [5, wrong]}), 400)
        refused(client.ask("/v1/completions", {"prompt": "a", "stop_token_ids": [wrong]}), 400)
    for wrong in ("-1", "519", "520", "4294967296", "1.5", "", "a", " 5", "0x5"):
        refused(client.ask("/v1/completions", {"prompt": "a", "logit_bias": {wrong: 1}}), 400)
    for wrong in (101, -101, 1e300, "1", None, [], True):
        refused(client.ask("/v1/completions", {"prompt": "a", "logit_bias": {"5": wrong}}), 400)
    everything = {str(i): -100 for i in range(512)}
    answer = client.ask("/v1/completions", {"prompt": "a", "logit_bias": everything, "max_tokens": 2})
    assert answer.status in (200, 400), answer


def test_lists_have_ends(target):
    client = Client(target.url)
    refused(client.ask("/v1/chat/completions", chat(stop=["a"] * 100_000)), 400, "too_many_entries", "stop")
    refused(client.ask("/v1/chat/completions", chat(stop=["a" * 100_000])), 400, "invalid_value", "stop")
    refused(client.ask("/v1/messages", chat(stop_sequences=[str(i) for i in range(100_000)])), 400, "too_many_entries")
    tool = lambda name: {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    refused(client.ask("/v1/chat/completions", chat(tools=[tool(f"f{i}") for i in range(10_000)])), 400, "too_many_entries", "tools")
    refused(client.ask("/v1/chat/completions", chat(tools=[tool("f")] * 2)), 400)
    refused(client.ask("/v1/chat/completions", chat(tools=[tool("a" * 100_000)])), 400)
    refused(client.ask("/v1/chat/completions", {"messages": chat()["messages"] * 5000}), 400, "too_many_entries", "messages")
    parts = [{"type": "text", "text": ""}] * 5000
    refused(client.ask("/v1/chat/completions", {"messages": [{"role": "user", "content": parts}]}), 400, "too_many_entries")
    refused(client.ask("/v1/chat/completions", chat(logit_bias={str(i): 0 for i in range(5000)})), 400, "too_many_entries")
    refused(client.ask("/v1/chat/completions", chat(**{f"x{i}": 0 for i in range(50_000)})), 400, "unknown_parameter")
    refused(client.ask("/v1/chat/completions", chat("a" * (8 << 20))), 400, "context_length_exceeded")
    refused(client.ask("/v1/completions", {"prompt": [5] * 500_000}), 400, "context_length_exceeded")


SCHEMAS = {
    "types": {"type": "nonsense"},
    "type of a type": {"type": {"type": {}}},
    "pattern": {"type": "string", "pattern": "(a+)+$("},
    "slow pattern": {"type": "string", "pattern": "(?:(?:a?){1000}){1000}b"},
    "lengths": {"type": "string", "minLength": 2**40, "maxLength": 2**41},
    "negative length": {"type": "string", "minLength": -1},
    "items": {"type": "array", "minItems": 10**9, "items": {"type": "integer"}},
    "itself": {"$ref": "#"},
    "in a circle": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    "elsewhere": {"$ref": "http://127.0.0.1:1/schema.json"},
    "file": {"$ref": "file:///etc/passwd"},
    "deep": None,
    "wide": {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(20_000)}},
    "choices": {"enum": ["x" * 10 + str(i) for i in range(50_000)]},
    "numbers": {"type": "number", "minimum": 1e308, "maximum": -1e308, "multipleOf": 1e-300},
    "no schema": [1, 2, 3],
    "all of": {"allOf": [{"anyOf": [{"type": "string"}, {"type": "integer"}] * 8}] * 64},
}
deep = {"type": "string"}
for _ in range(40):
    deep = {"type": "object", "properties": {"a": deep}, "required": ["a"]}
SCHEMAS["deep"] = deep
GRAMMARS = [
    {"type": "regex", "regex": "(a{1,1000}){1,1000}"},
    {"type": "regex", "regex": "(?:a|a)*" * 500},
    {"type": "regex", "regex": "(" * 5000},
    {"type": "regex", "regex": "\\p{L}{0,100000}"},
    {"type": "regex", "regex": "(?=a)b"},
    {"type": "regex", "regex": "a" * 200_000},
    {"type": "regex", "regex": ""},
    {"type": "regex"},
    {"type": "grammar", "grammar": "start: start start | \"a\""},
    {"type": "grammar", "grammar": "start: " + "(" * 10_000 + '"a"' + ")" * 10_000},
    {"type": "grammar", "grammar": "\n".join(f"r{i}: r{i + 1}" for i in range(5000))},
    {"type": "grammar", "grammar": "%import nowhere.NOTHING\nstart: NOTHING"},
    {"type": "grammar", "grammar": "start: /(/"},
    {"type": "grammar", "grammar": "\0"},
    {"type": "choice", "choice": []},
    {"type": "choice", "choice": [""]},
    {"type": "choice", "choice": ["a"] * 5000},
    {"type": "json_schema"},
    {"type": "structural_tag", "structures": []},
    {"type": "nonsense"},
]


def limited(target, body):
    """Sends a request for a shaped answer: it is answered, or refused for what it asks, and soon."""
    start = time.monotonic()
    answer = ask(target.url, "/v1/chat/completions", {"max_tokens": 8, **body})
    took = time.monotonic() - start
    assert answer.status in (200, 400), (body, answer)
    assert took < 10, (body, took)
    if answer.status == 400:
        refused(answer, 400)


@pytest.mark.parametrize("name", SCHEMAS)
def test_hostile_schemas(target, name):
    schema = SCHEMAS[name]
    limited(target, chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}))
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    limited(target, chat(tools=tools, tool_choice="required"))
    limited(target, chat(tools=tools))
    if name in ("itself", "in a circle", "elsewhere", "file"):
        body = {"tools": [{"name": "f", "input_schema": schema}], "tool_choice": {"type": "any"}, **chat()}
        assert ask(target.url, "/v1/messages", body).status in (200, 400)


@pytest.mark.parametrize("number", range(len(GRAMMARS)))
def test_hostile_grammars(target, number):
    limited(target, chat(response_format=GRAMMARS[number]))


def test_templates_come_from_the_model_alone(target):
    loop = "{% for i in range(10**9) %}x{% endfor %}"
    for field in ("chat_template", "template", "jinja"):
        refused(ask(target.url, "/v1/chat/completions", chat(**{field: loop})), 400, "unknown_parameter", field)
        refused(ask(target.url, "/apply-template", {"messages": chat()["messages"], field: loop}), 400, "unknown_parameter", field)
    for wrong in (
        {"messages": []}, {"tools": []}, {"bos_token": "x"}, {"add_generation_prompt": False}, {"nonsense": 1}, {"thinking": {"a": 1}},
        {"thinking": ["a"]}, {"thinking": "a" * 5000}, {f"v{i}": 1 for i in range(100)}, [], "x", {"__class__": 1}, {"range": 10**9},
    ):
        refused(ask(target.url, "/v1/chat/completions", chat(chat_template_kwargs=wrong)), 400)
    # A template in a text is text.
    text = "{{ 7 * 7 }}{% for i in range(999999999) %}x{% endfor %}{{ messages }}"
    printed = ask(target.url, "/apply-template", {"messages": [{"role": "user", "content": text}]}).json["prompt"]
    assert text in printed and "49" not in printed


CONTROL = ["<｜Assistant｜>", "<｜User｜>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<think>", "</think>", "<｜tool▁calls▁begin｜>"]


@pytest.mark.parametrize("text", CONTROL)
def test_control_tokens_of_a_user_are_text(target, text):
    url = target.url
    tokens = lambda body: ask(url, "/tokenize", body).json["tokens"]
    added = {token["id"] for token in json.loads((TOKENIZER / "tokenizer.json").read_text())["added_tokens"]}
    assert not added & set(tokens({"prompt": text, "add_special_tokens": False}))
    assert added & set(tokens({"messages": [{"role": "user", "content": "abc"}]})), "the template has control tokens"
    plain = [t for t in tokens({"messages": [{"role": "user", "content": "abc"}]}) if t in added]
    for role in ("user", "system", "assistant", "tool"):
        conversation = [{"role": "user", "content": "abc"}, {"role": role, "content": f"x{text}y", "tool_call_id": "c"}]
        if role != "tool":
            del conversation[1]["tool_call_id"]
        else:
            call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            conversation.insert(1, {"role": "assistant", "content": "", "tool_calls": [call]})
        hostile = tokens({"messages": conversation})
        conversation[-1]["content"] = "xzy"
        assert [t for t in hostile if t in added] == [t for t in tokens({"messages": conversation}) if t in added]
    assert [t for t in tokens({"messages": [{"role": "user", "content": f"a{text}b"}]}) if t in added] == plain
    body = {"model": "tiny", "max_tokens": 2, "system": text, "messages": [{"role": "user", "content": [{"type": "text", "text": text}]}]}
    assert ask(url, "/v1/messages", body).status == 200


def test_nothing_is_fetched(target):
    """A listener of ours hears of no connection, wherever a request names its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.5)
        link = f"http://127.0.0.1:{listener.getsockname()[1]}/x.png"
        client = Client(target.url)
        for part in (
            {"type": "image_url", "image_url": {"url": link}}, {"type": "image_url", "image_url": link}, {"type": "input_image", "image_url": link},
            {"type": "video_url", "video_url": {"url": link}}, {"type": "audio_url", "audio_url": {"url": link}}, {"type": "file", "file": {"file_url": link}},
        ):
            refused(client.ask("/v1/chat/completions", {"messages": [{"role": "user", "content": [part]}]}), 400, "unsupported_content")
        for part in (
            {"type": "image", "source": {"type": "url", "url": link}}, {"type": "document", "source": {"type": "url", "url": link}},
        ):
            refused(client.ask("/v1/messages", {"messages": [{"role": "user", "content": [part]}], "max_tokens": 1}), 400)
        for text in (f"![a]({link})", f"<img src={link}>", link, f"data:image/png;base64,AAAA {link}"):
            assert client.ask("/v1/chat/completions", chat(text)).status == 200
            assert client.ask("/v1/completions", {"prompt": text, "max_tokens": 2}).status == 200
        schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": link}}}
        refused(client.ask("/v1/chat/completions", chat(response_format=schema)), 400)
        for field, value in {"web_search_options": {"url": link}, "mcp_servers": [{"url": link}], "file_url": link, "prompt_embeds": link}.items():
            refused(client.ask("/v1/chat/completions", chat(**{field: value})), 400)
        refused(client.ask("/v1/messages", chat(mcp_servers=[{"type": "url", "url": link, "name": "x"}])), 400)
        assert client.ask("/v1/chat/completions", chat(metadata={"url": link}, user=link)).status == 200
        for name in ("referer", "origin", "x-forwarded-host", "x-original-url", "forwarded", "x-callback"):
            assert client.ask("/v1/chat/completions", chat(), **{name: link}).status == 200
        with Raw(target.url) as raw:
            raw.send(f"GET {link} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode()).rest()
        with pytest.raises(TimeoutError):
            listener.accept()


# At random.

NASTY = [
    None, True, False, 0, -1, 1, 0.5, 10**6, 2**63, 2**64, -(2**63), 1e308, 5e-324, "", "a", "\0", "\ud7ff\ue000\uffff", "<｜Assistant｜>", "a" * 3000,
    "{{ x }}", "auto", "none", "required", [], [0], [[]], [None], ["a"] * 300, {}, {"a": {}}, {"type": "text", "text": "a"}, {"type": "function"},
    {"role": "user", "content": "x"}, list(range(50)), {"type": "object"}, "json_object", {"type": "json_object"}, {"include_usage": True},
]
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
SEEDS = [
    ("/v1/chat/completions", {
        "model": "tiny", "messages": [
            {"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "u"}]},
            {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "c1", "content": "42"},
            {"role": "user", "content": "v", "name": "n"},
        ],
        "tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": False, "max_completion_tokens": 4, "temperature": 0.7, "top_p": 0.9,
        "top_k": 5, "min_p": 0.1, "seed": 7, "n": 2, "stop": ["x"], "logprobs": True, "top_logprobs": 2, "logit_bias": {"5": 1}, "stream": True,
        "stream_options": {"include_usage": True}, "presence_penalty": 0.1, "frequency_penalty": 0.1, "user": "u", "return_progress": True,
        "chat_template_kwargs": {"thinking": True}, "min_tokens": 1, "cache_salt": "s",
    }),
    ("/v1/chat/completions", {
        "messages": [{"role": "user", "content": "u"}], "max_tokens": 4,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object", "properties": {"a": {"type": "string"}}}}},
    }),
    ("/v1/completions", {
        "model": "tiny", "prompt": ["ab", [5, 6, 7]], "max_tokens": 4, "n": 1, "best_of": 2, "echo": True, "logprobs": 1, "stop": "q", "suffix": None,
        "response_format": {"type": "regex", "regex": "[ab]{1,3}"}, "stop_token_ids": [7], "ignore_eos": True,
    }),
    ("/v1/messages", {
        "model": "tiny", "max_tokens": 4, "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": "u"}, {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "42"}]},
        ],
        "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}], "tool_choice": {"type": "auto"}, "stream": True,
        "stop_sequences": ["x"], "temperature": 0.5, "top_p": 0.9, "top_k": 3, "metadata": {"user_id": "u"}, "thinking": {"type": "enabled", "budget_tokens": 1024},
    }),
    ("/v1/messages/count_tokens", {"model": "tiny", "messages": [{"role": "user", "content": "u"}], "system": "s"}),
    ("/tokenize", {"prompt": "abc", "add_special_tokens": True, "return_token_strs": True}),
    ("/detokenize", {"tokens": [5, 6, 7]}),
    ("/apply-template", {"messages": [{"role": "user", "content": "u"}], "tools": [TOOL]}),
]


def places(value, found=None, at=()):
    """The paths to all values inside of a value."""
    found = [] if found is None else found
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found.append((*at, key))
        places(inner, found, (*at, key))
    return found


def mutated(random, body):
    """A body with some of its values changed, and now and then its text."""
    body = json.loads(json.dumps(body))
    for _ in range(random.choice([0, 1, 1, 1, 2, 3, 6])):
        paths = places(body)
        if not paths:
            break
        *way, key = random.choice(paths)
        inner = body
        for step in way:
            inner = inner[step]
        what = random.randrange(8)
        if what == 0:
            del inner[key]
        elif what == 1 and isinstance(inner, dict):
            inner[str(key) + random.choice(["s", "_", "\0", "é"])] = inner.pop(key)
        elif what == 2:
            inner[key] = [inner[key]]
        elif what == 3:
            inner[key] = {"a": inner[key]}
        elif what == 4 and isinstance(inner, list):
            inner.extend([inner[key]] * random.choice([1, 5, 5 if isinstance(inner[key], (dict, list)) else 200]))
        elif what == 5 and isinstance(inner[key], (int, float)):
            inner[key] = inner[key] * random.choice([-1, 1e3, 1e18, 2**40, 0.001]) + random.choice([0, 1])
        else:
            inner[key] = copy.deepcopy(random.choice(NASTY))
    text = json.dumps(body, ensure_ascii=random.random() < 0.5).encode("utf-8", "surrogatepass")
    if random.random() < 0.25:
        data = bytearray(text)
        for _ in range(random.choice([1, 1, 3])):
            at = random.randrange(len(data) + 1)
            what = random.randrange(4)
            if what == 0:
                del data[at:at + random.choice([1, 5, 10**6])]
            elif what == 1:
                data[at:at] = random.choice([b"\0", b"\xff", b"[", b"}", b",", b'"', b"\\u", b"1e999", b"\xed\xa0\x80"])
            elif at < len(data):
                data[at] = random.randrange(256)
        text = bytes(data)
    return text


def test_no_body_makes_the_server_fail(target):
    """A few thousand bodies near valid ones, always the same: an answer or a refusal, soon, and no fault."""
    rng = random.Random(20260801)
    client = Client(target.url, timeout=10)
    found, start, slowest = {}, time.monotonic(), 0
    count = 3000
    for i in range(count):
        path, body = SEEDS[rng.choices(range(len(SEEDS)), [6, 3, 5, 6, 1, 1, 1, 1])[0]]
        sent = mutated(rng, body)
        began = time.monotonic()
        try:
            answer = client.ask(path, sent)
        except Exception as error:
            raise AssertionError(f"body {i} to {path}: {error!r}: {sent[:2000]!r}") from error
        slowest = max(slowest, time.monotonic() - began)
        found[answer.status] = found.get(answer.status, 0) + 1
        assert answer.status < 500 or answer.status == 503, (i, path, sent[:2000], answer)
        if answer.status >= 400:
            error = answer.json["error"]
            assert error["message"] and error["code"], (i, answer)
        else:
            assert b'"error"' not in answer.body, (i, path, sent[:2000], answer)
    print(f"{count} bodies in {time.monotonic() - start:.0f} s, the slowest in {slowest:.2f} s: {found}")
    assert found[200] > count // 20 and found[400] > count // 3, found
    assert not math.isnan(slowest)
