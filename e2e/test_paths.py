"""What is around the answers: texts and tokens, names of requests, errors, keys, hosts and origins."""

import http.client
import json
import re
import time
import urllib.parse
import uuid

import pytest
from exchange import ask, get, key, metric, post, wait_for

TEXTS = [
    "The trench is 10,935 metres deep.",
    "",
    " \n\t  spaces  ",
    "深海 Köln ﬁ 👩‍👩‍👧 e\u0301 \u202e",
    "<think>no token</think> <｜User｜> <｜end▁of▁sentence｜>",
    "\x00\x01\x7f",
    "a" * 300,
]
USER = [{"role": "user", "content": "How deep?"}]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_tokens_and_back(server, text):
    reply = post(server, "/tokenize", {"prompt": text, "add_special_tokens": False, "return_token_strs": True}).json()
    tokens = reply["tokens"]
    assert reply["count"] == len(tokens) == len(reply["token_strs"]) and reply["max_model_len"] == 2048
    assert post(server, "/detokenize", {"tokens": tokens}).json() == {"prompt": text}
    with_bos = post(server, "/tokenize", {"prompt": text}).json()["tokens"]
    assert with_bos == [0, *tokens], "as a completion's prompt begins"
    # What a user writes is never a control token.
    assert all(3 <= token < 495 for token in tokens)


def test_templates(server):
    tools = [{"type": "function", "function": {"name": "tide", "parameters": {"type": "object"}}}]
    for fields in [{}, {"tools": tools}, {"chat_template_kwargs": {"thinking": True}}]:
        messages = [{"role": "system", "content": "Be brief."}, *USER, {"role": "assistant", "content": "Very."}, *USER]
        text = post(server, "/apply-template", {"messages": messages, **fields}).json()["prompt"]
        assert text.startswith("<｜begin▁of▁sentence｜>") and "Be brief." in text and text.count("How deep?") == 2
        tokens = post(server, "/tokenize", {"messages": messages, **fields}).json()
        assert post(server, "/detokenize", {"tokens": tokens["tokens"]}).json()["prompt"] == text
        chat = {"model": "tiny", "messages": messages, "max_tokens": 1, **fields}
        usage = post(server, "/v1/chat/completions", chat).json()["usage"]
        assert usage["prompt_tokens"] == tokens["count"]


@pytest.mark.parametrize(
    "path, body, code, param",
    [
        ("/tokenize", {}, "missing_field", "prompt"),
        ("/tokenize", {"prompt": 3}, "invalid_type", "prompt"),
        ("/tokenize", {"prompt": "x", "promt": 1}, "unknown_parameter", "promt"),
        ("/tokenize", {"prompt": "deep " * 100_000}, "context_length_exceeded", "prompt"),
        ("/tokenize", {"messages": []}, "invalid_value", "messages"),
        ("/detokenize", {}, "missing_field", "tokens"),
        ("/detokenize", {"tokens": [512]}, "invalid_token", "tokens"),
        ("/detokenize", {"tokens": [-1]}, "invalid_token", "tokens"),
        ("/detokenize", {"tokens": [3] * 2049}, "too_many_entries", "tokens"),
        ("/apply-template", {}, "missing_field", "messages"),
        ("/apply-template", {"messages": USER, "chat_template": "{{ x }}"}, "unknown_parameter", "chat_template"),
        ("/apply-template", {"messages": USER, "chat_template_kwargs": {"x": 1}}, "invalid_value", "chat_template_kwargs.x"),
        ("/apply-template", {"messages": USER, "chat_template_kwargs": {"messages": 1}}, "invalid_value", "chat_template_kwargs.messages"),
    ],
)
def test_wrong_texts(server, path, body, code, param):
    reply = post(server, path, body)
    error = reply.error()
    assert (reply.status, error["code"], error["param"]) == (400, code, param) and error["message"]


def test_names_of_requests(server):
    for path in ["/livez", "/v1/models", "/nothing", "/"]:
        assert get(server, path, headers={"x-request-id": "a.B_c-9"}).headers["x-request-id"] == "a.B_c-9"
        for wrong in ["", "x" * 129, "a b", "a/b", "ü"]:
            name = get(server, path, headers={"x-request-id": wrong.encode()}).headers["x-request-id"]
            assert re.fullmatch("[0-9a-f]{32}", name)
    assert get(server, "/livez").headers["x-request-id"] != get(server, "/livez").headers["x-request-id"]


@pytest.mark.parametrize(
    "method, path, body, status, finish",
    [
        ("POST", "/v1/completions", {"prompt": "x", "max_tokens": 1, "ignore_eos": True}, 200, "length"),
        ("POST", "/v1/completions", {"prompt": "x", "stream": True, "max_tokens": 1, "ignore_eos": True}, 200, "length"),
        ("POST", "/v1/completions", {"prompt": "x", "temperature": 99}, 400, "invalid_value"),
        ("POST", "/v1/messages", {}, 400, "missing_field"),
        ("POST", "/tokenize", {"prompt": "x"}, 200, "none"),
        ("POST", "/nothing", {}, 404, "not_found"),
        ("GET", "/v1/chat/completions", None, 405, "method_not_allowed"),
    ],
)
def test_each_request_has_one_line_in_the_log(server, method, path, body, status, finish):
    name = f"line-{uuid.uuid4().hex}"
    lines = lambda: [line for line in server.log if f"id={name}" in line]
    assert ask(server, method, path, body, headers={"x-request-id": name, "anthropic-version": "2023-06-01"}).status == status
    wait_for("its line is there", lines)
    time.sleep(0.05)
    (line,) = lines()
    assert f"status={status}" in line and f"finish={json.dumps(finish)}" in line, line


@pytest.mark.parametrize(
    "method, path, body, headers, status, code",
    [
        ("GET", "/nothing", None, {}, 404, "not_found"),
        ("POST", "/v1/chat/completion", {}, {}, 404, "not_found"),
        ("POST", "/v1/chat/completions/", {}, {}, 404, "not_found"),
        ("GET", "/v1//models", None, {}, 404, "not_found"),
        ("GET", "/ui/../../Cargo.toml", None, {}, 404, "not_found"),
        ("GET", "/ui/%2e%2e%2fkeys.toml", None, {}, 404, "not_found"),
        ("GET", "/v1/models/huge", None, {}, 404, "model_not_found"),
        ("GET", "/v1/chat/completions", None, {}, 405, "method_not_allowed"),
        ("DELETE", "/v1/models/tiny", None, {}, 405, "method_not_allowed"),
        ("PUT", "/tokenize", {}, {}, 405, "method_not_allowed"),
        ("POST", "/metrics", {}, {}, 405, "method_not_allowed"),
        ("POST", "/tokenize", b"{", {}, 400, "invalid_json"),
        ("POST", "/tokenize", b"", {}, 400, "invalid_json"),
        ("POST", "/tokenize", b"[1]", {}, 400, "invalid_type"),
        ("POST", "/tokenize", b"\xff\xfe", {}, 400, "invalid_json"),
        ("POST", "/tokenize", b"[" * 200_000, {}, 400, "nested_too_deeply"),
        ("POST", "/tokenize", b'{"prompt":' + b"[" * 80 + b"]" * 80 + b"}", {}, 400, "nested_too_deeply"),
        ("POST", "/tokenize", {}, {"content-type": "text/plain"}, 415, "unsupported_media_type"),
        ("POST", "/tokenize", {}, {"content-encoding": "gzip"}, 415, "unsupported_media_type"),
        ("POST", "/v1/completions", {"model": "huge", "prompt": "x"}, {}, 404, "model_not_found"),
        ("POST", "/v1/completions", {"prompt": ""}, {}, 200, None),
        ("POST", "/v1/completions", {"prompt": []}, {}, 400, "empty_prompt"),
        ("POST", "/v1/completions", {"prompt": [[]]}, {}, 400, "empty_prompt"),
        ("POST", "/v1/completions", {"prompt": ["x"] * 129}, {}, 400, "too_many_entries"),
        ("POST", "/v1/completions", {"prompt": "x", "n": 10**6}, {}, 400, "invalid_value"),
        ("POST", "/v1/completions", {"prompt": "x", "stop": [""]}, {}, 400, "invalid_value"),
    ],
)
def test_errors(server, method, path, body, headers, status, code):
    reply = ask(server, method, path, body, headers=headers)
    assert reply.status == status, reply.body
    if code is not None:
        error = reply.error()
        assert set(error) == {"message", "type", "param", "code"}
        assert (error["code"], error["type"]) == (code, "invalid_request_error") and error["message"]
        assert reply.headers["content-type"] == "application/json"
    if status == 405:
        assert reply.headers["allow"]


def test_no_question_mark_of_a_browser(server):
    """A page of another origin sends text/plain without asking first, and is refused; nothing says that it may ask."""
    origin = {"origin": "https://elsewhere"}
    reply = post(server, "/v1/completions", {"prompt": "x"}, headers={**origin, "content-type": "text/plain"})
    assert reply.status == 415 and "access-control-allow-origin" not in reply.headers
    reply = ask(server, "OPTIONS", "/v1/completions", headers={**origin, "access-control-request-method": "POST"})
    assert reply.status == 405 and "access-control-allow-origin" not in reply.headers


def test_origins(serve, tmp_path):
    keys = tmp_path / "keys.toml"
    keys.write_text(key("ann", "abc", "user"))
    server = serve("--cors-origin", "https://page,https://other", "--api-key-file", keys)
    for origin in ["https://page", "https://other"]:
        asked = {"origin": origin, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        reply = ask(server, "OPTIONS", "/v1/chat/completions", headers=asked)
        assert reply.status == 204 and reply.headers["access-control-allow-origin"] == origin
        assert "POST" in reply.headers["access-control-allow-methods"]
        allowed = reply.headers["access-control-allow-headers"].split(", ")
        assert {"authorization", "content-type", "x-api-key", "anthropic-version"} <= set(allowed)
        # The packages for browsers send some of their own.
        theirs = "authorization,anthropic-dangerous-direct-browser-access,x-stainless-os,x-stainless-retry-count,openai-beta"
        reply = ask(server, "OPTIONS", "/v1/chat/completions", headers={**asked, "access-control-request-headers": theirs})
        assert set(theirs.split(",")) <= set(reply.headers["access-control-allow-headers"].split(", "))
        wrong = {**asked, "access-control-request-headers": "x-fine, not a name"}
        assert "x-fine" not in ask(server, "OPTIONS", "/v1/models", headers=wrong).headers["access-control-allow-headers"]
        reply = get(server, "/v1/models", headers={"origin": origin, "authorization": "Bearer abc"})
        assert reply.status == 200 and reply.headers["access-control-allow-origin"] == origin
        assert reply.headers["vary"] == "origin" and "x-request-id" in reply.headers["access-control-expose-headers"]
        refused = get(server, "/v1/models", headers={"origin": origin})
        assert refused.status == 401 and refused.headers["access-control-allow-origin"] == origin, "a page reads errors too"
    for origin in ["https://page.invalid", "http://page", "null", "https://PAGE"]:
        reply = ask(server, "OPTIONS", "/v1/models", headers={"origin": origin, "access-control-request-method": "GET"})
        assert reply.status == 401 and "access-control-allow-origin" not in reply.headers


def test_keys(serve, tmp_path):
    keys = tmp_path / "keys.toml"
    keys.write_text(key("ann", "abc", "user", 4) + key("watch", "def", "metrics") + key("root", "ghi", "user"))
    server = serve("--api-key-file", keys)

    def status(method, path, secret=None, header="authorization"):
        headers = {} if secret is None else {header: f"Bearer {secret}" if header == "authorization" else secret}
        return ask(server, method, path, {} if method == "POST" else None, headers=headers)

    for path in ["/livez", "/readyz", "/startupz", "/health", "/", "/ui/main.js"]:
        assert status("GET", path).status == 200
    closed = [("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("POST", "/v1/completions"), ("POST", "/v1/messages"),
              ("POST", "/tokenize"), ("POST", "/detokenize"), ("POST", "/apply-template"), ("GET", "/metrics"), ("GET", "/stats"),
              ("GET", "/nothing"), ("GET", "/ui/a/b"), ("GET", "/livez/"), ("POST", "/v1/messages/count_tokens"),
              ("GET", "//livez"), ("GET", "/v1/models/tiny/versions")]
    for method, path in closed:
        for secret in [None, "", "wrong", "ABC", "abcd"]:
            reply = status(method, path, secret)
            assert reply.status == 401, (path, secret)
            assert reply.headers["www-authenticate"] == "Bearer" and reply.error()["type"] == "authentication_error"
            assert "code" not in reply.error() or reply.error()["code"] == "invalid_api_key"
    # Metrics alone.
    assert status("GET", "/metrics", "def").status == status("GET", "/stats", "def").status == 200
    reply = status("GET", "/v1/models", "def")
    assert (reply.status, reply.error()["code"], reply.error()["type"]) == (403, "insufficient_scope", "permission_error")
    # Everything, in either header.
    assert status("GET", "/v1/models", "ghi").status == status("GET", "/v1/models", "ghi", "x-api-key").status == 200
    assert status("GET", "/nothing", "ghi").status == 404
    # Four at once, then the fifth has to wait; metrics do not count.
    assert [status("GET", "/v1/models", "abc").status for _ in range(4)] == [200] * 4
    reply = status("GET", "/v1/models", "abc")
    assert (reply.status, reply.error()["code"], reply.error()["type"]) == (429, "rate_limit_exceeded", "rate_limit_error")
    assert 1 <= int(reply.headers["retry-after"]) <= 15
    assert status("GET", "/metrics", "abc").status == 200
    assert status("GET", "/v1/models", "ghi").status == 200, "each key has its own limit"
    # With keys any name of the host will do: whoever has a key may ask.
    assert get(server, "/v1/models", host="elsewhere", headers={"authorization": "Bearer ghi"}).status == 200
    refused = [line for line in server.log if "status=401" in line]
    assert refused and all("invalid_api_key" in line for line in refused)
    # Names of requests are random letters.
    log = [re.sub(r"id=\w+", "", line) for line in server.log]
    assert not any("abc" in line or "ghi" in line for line in log), "no key stands in the log"


def test_keys_do_not_share_prompts(serve, tmp_path):
    """What one key has asked does not show in the time or the usage of another's answer."""
    keys = tmp_path / "keys.toml"
    keys.write_text(key("ann", "abc", "user") + key("bob", "def", "user"))
    server = serve("--api-key-file", keys)

    def cached(secret, **fields):
        body = {"prompt": "The trench is deep. " * 30, "max_tokens": 1, **fields}
        reply = post(server, "/v1/completions", body, headers={"authorization": f"Bearer {secret}"})
        return reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"]

    assert cached("abc") == 0 and cached("abc") >= 64
    assert cached("def") == 0 and cached("abc", cache_salt="x") == 0 and cached("abc", cache_salt="x") >= 64


def test_hosts(server, serve):
    """Without keys, a page that gives its own name this address does not get in."""
    port = urllib.parse.urlsplit(server.url).port
    for host in ["127.0.0.1", f"127.0.0.1:{port}", "localhost", f"LocalHost:{port}", "[::1]", f"[::1]:{port}", "10.0.0.7:80"]:
        assert get(server, "/v1/models", host=host).status == 200, host
    for host in ["evil", f"evil:{port}", "localhost.evil", "127.0.0.1.evil", "evil:127.0.0.1", "", "[::1].evil", "localhost@evil"]:
        for path in ["/v1/models", "/", "/metrics", "/livez"]:
            reply = get(server, path, host=host)
            assert reply.status in (400, 403), (host, path, reply.status)
    reply = get(server, "/v1/models", host="evil")
    assert (reply.status, reply.error()["code"]) == (403, "host_not_allowed") and "--allow-host" in reply.error()["message"]
    named = serve("--allow-host", "hadal")
    assert get(named, "/v1/models", host="hadal:80").status == 200
    assert get(named, "/v1/models", host="evil").status == 403


def test_an_address_as_the_target_names_a_host_too(server):
    """A proxy's form of a request has the name in its first line, and that counts before the header."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(server.url).netloc, timeout=10)
    connection.putrequest("GET", "http://evil/v1/models", skip_host=True)
    connection.putheader("host", "localhost")
    connection.endheaders()
    assert connection.getresponse().status in (400, 403)
    connection.close()


def test_a_stream_says_how_far_its_prompt_is(server):
    body = {"messages": [{"role": "user", "content": "deep " * 300}], "max_tokens": 2, "stream": True, "return_progress": True}
    events = post(server, "/v1/chat/completions", body).events()
    steps = [event["prompt_progress"] for event in events if event != "[DONE]" and "prompt_progress" in event]
    assert steps and steps[-1]["processed"] == steps[-1]["total"] and all(step["cache"] >= 0 for step in steps)
    assert [step["processed"] for step in steps] == sorted(step["processed"] for step in steps)
    assert post(server, "/v1/chat/completions", {**body, "stream": False}).error()["param"] == "return_progress"


def test_numbers_add_up(serve):
    server = serve()
    # A model that is new draws a token to warm up.
    before = metric(server, "hadal_generation_tokens_total")
    for i in range(3):
        post(server, "/v1/completions", {"prompt": f"{i} metres", "max_tokens": 5, "ignore_eos": True})
    post(server, "/v1/completions", {"prompt": "x", "n": 99})
    wait_for("all are counted", lambda: metric(server, "hadal_generation_tokens_total") == before + 15, 5)
    assert metric(server, "vllm:generation_tokens_total") == before + 15
    stats = get(server, "/stats").json()
    assert (stats["generation_tokens_total"], stats["running"], stats["state"]) == (before + 15, 0, "ready")
    assert stats["requests_total"] == 3
    assert json.dumps(stats, allow_nan=False)
    assert 'hadal_http_requests_total{path="/v1/completions",status="400"' in get(server, "/metrics").body.decode()
