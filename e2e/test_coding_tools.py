"""Programs that write programs, as they ask: bodies shaped as theirs, against our server."""

import json
import re

import pytest
from exchange import ask, post

BETAS = "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27,prompt-caching-scope-2026-01-05,effort-2025-11-24"
HEADERS = {
    "anthropic-version": "2023-06-01", "anthropic-beta": BETAS, "anthropic-dangerous-direct-browser-access": "true",
    "authorization": "Bearer none", "user-agent": "claude-cli/2.1.208 (external, cli)", "x-app": "cli",
    "x-stainless-lang": "js", "x-stainless-retry-count": "0", "x-stainless-timeout": "600",
}
CACHED = {"type": "ephemeral", "ttl": "1h"}


def tool(name, description, **properties):
    schema = {
        "type": "object", "properties": properties,
        "required": list(properties)[:1], "additionalProperties": False,
    }
    return {"name": name, "description": description, "input_schema": schema, "eager_input_streaming": True}


TEXT = {"type": "string", "description": "A text."}
TOOLS = [
    tool("Bash", "Runs a command.", command=TEXT, timeout={"type": "number"}, run_in_background={"type": "boolean"}),
    tool("Read", "Reads a file.", file_path=TEXT, offset={"type": "number"}, limit={"type": "number"}),
    tool("Edit", "Edits a file.", file_path=TEXT, old_string=TEXT, new_string=TEXT, replace_all={"type": "boolean", "default": False}),
    {**tool("Grep", "Searches.", pattern=TEXT), "input_examples": [{"pattern": "fn main"}]},
    {**tool(f"mcp__tide_tables_of_the_north_sea__{'look_up_' * 9}now", "Looks it up.", port=TEXT), "cache_control": CACHED},
]


def body(nonce, messages, **fields):
    """A request of Claude Code's. The first text of the system is another one each time."""
    billing = f"x-anthropic-billing-header: cc_version=2.1.208.{nonce:03x}; cc_entrypoint=cli; cch={nonce:05x};"
    return {
        "model": "tiny",
        "max_tokens": 48,
        "system": [
            {"type": "text", "text": billing},
            {"type": "text", "text": "You are a program that writes programs.", "cache_control": {**CACHED, "scope": "global"}},
            {"type": "text", "text": "Read before you write. " * 12, "cache_control": CACHED},
        ],
        "messages": messages,
        "tools": TOOLS,
        "metadata": {"user_id": json.dumps({"device_id": "d" * 64, "account_uuid": "", "session_id": "s" * 36})},
        "thinking": {"type": "enabled", "budget_tokens": 31999},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "medium"},
        "temperature": 1,
        "stream": True,
        **fields,
    }


def said(text):
    return [{"type": "text", "text": text}]


def blocks(events):
    """The blocks of a streamed message, as a client keeps them and sends them back."""
    found = []
    for event in events:
        if event["type"] == "content_block_start":
            found.append(event["content_block"])
        elif event["type"] == "content_block_delta":
            kind = event["delta"]["type"].removesuffix("_delta")
            found[-1][kind] += event["delta"][kind]
    return found


@pytest.fixture
def agent(serve, models):
    def start(template):
        return serve(model=models(template, max_position_embeddings=8192))

    return start


@pytest.mark.parametrize("template", ["v3_1", "v3", "v3_0324", "r1"])
def test_claude_code(agent, template):
    server = agent(template)

    def turn(nonce, messages, **fields):
        reply = ask(server, "POST", "/v1/messages?beta=true", body(nonce, messages, **fields), headers=HEADERS)
        assert reply.status == 200, reply.body
        events = reply.events()
        assert events[0]["type"] == "message_start" and events[-1]["type"] == "message_stop", events[-1]
        usage = next(event["usage"] for event in events if event["type"] == "message_delta")
        return blocks(events), usage["input_tokens"] + usage["cache_read_input_tokens"], usage["cache_read_input_tokens"]

    asked = [
        {"role": "user", "content": [*said("<system-reminder>Today is Monday.</system-reminder>"), {**said("Make it faster.")[0], "cache_control": CACHED}]},
        # What it says of itself stands behind the user's turn, and stays there.
        {"role": "system", "content": said("Two agents are there.")},
    ]
    answer, read, _ = turn(1, asked)
    assert {block["type"] for block in answer} <= {"thinking", "text"} and answer
    assert (answer[0]["type"] == "thinking") == (template in ("v3_1", "r1"))
    use = {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"file_path": "main.rs"}}
    gave = {"type": "tool_result", "tool_use_id": "toolu_1", "content": said("fn main() {}"), "is_error": False, "cache_control": CACHED}
    more = [*asked, {"role": "assistant", "content": [*answer, use]}, {"role": "user", "content": [gave]},
            {"role": "system", "content": said("5000 tokens left")}]
    _, longer, cached = turn(2, more)
    assert longer > read and cached >= read - 2 * 64, (read, longer, cached)
    # What is left changes with each turn, and nothing before it does.
    _, _, cached = turn(3, [*more[:-1], {"role": "system", "content": said("4000 tokens left")}])
    assert cached >= longer - 3 * 64, (longer, cached)


def test_counts_do_not_change_with_the_bill(agent):
    server = agent("v3_1")
    count = lambda nonce: {k: v for k, v in body(nonce, [{"role": "user", "content": "u"}]).items()
                           if k not in ("max_tokens", "metadata", "temperature", "stream")}
    counts = [post(server, "/v1/messages/count_tokens?beta=true", count(nonce), headers=HEADERS).json() for nonce in (1, 70_000)]
    assert counts[0] == counts[1] and counts[0]["input_tokens"] > 300
    without = count(1)
    del without["system"][0]
    assert post(server, "/v1/messages/count_tokens", without).json() == counts[0]


def test_errors_that_claude_code_reads(agent):
    """It asks for fewer tokens, or shortens the conversation, when it finds these words."""
    server = agent("v3_1")
    reply = post(server, "/v1/messages", body(1, [{"role": "user", "content": "u"}], max_tokens=32000))
    found = re.search(r"input length and `max_tokens` exceed context limit: (\d+) \+ (\d+) > (\d+)", reply.error()["message"])
    prompt, asked, limit = map(int, found.groups())
    assert reply.status == 400 and (asked, limit) == (32000, 8192)
    assert post(server, "/v1/messages", body(1, [{"role": "user", "content": "u"}], max_tokens=4)).status == 200
    reply = post(server, "/v1/messages", body(1, [{"role": "user", "content": "deep " * 9000}]))
    assert reply.status == 400 and re.search(r"prompt is too long: \d+ tokens > 8192 maximum", reply.error()["message"])
    assert reply.error()["code"] == "context_length_exceeded"


def test_many_tools(agent):
    server = agent("v3_1")
    tools = [{"name": f"t{i:03}", "input_schema": {"type": "object"}} for i in range(200)]
    assert post(server, "/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "u"}], "tools": tools}).status == 200
    reply = post(server, "/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "u"}], "tools": [*tools, tools[7]]})
    assert reply.status == 400 and "tools[200]" in reply.error()["message"]


def test_any_name(serve):
    """A tool may ask for a model of another house. Names stand in the log and in every chunk, so they are words."""
    server = serve("--accept-any-model")
    chat = {"messages": [{"role": "user", "content": "u"}], "max_tokens": 1}
    for name in ["claude-sonnet-4-5-20250929", "openai/gpt-5", "org:a_b@7", "a" * 128]:
        assert post(server, "/v1/chat/completions", {**chat, "model": name}).json()["model"] == name
    # A version that is named is the one that is meant.
    assert post(server, "/v1/chat/completions", {**chat, "model": "tiny@1"}).json()["model"] == "tiny@1"
    assert post(server, "/v1/chat/completions", {**chat, "model": "tiny@2"}).error()["code"] == "model_not_found"
    for name in ["", "a" * 129, "a\nINFO hadal::request: forged", "a b", "ä"]:
        for path in ["/v1/chat/completions", "/v1/messages", "/v1/messages/count_tokens", "/tokenize"]:
            reply = post(server, path, {**chat, "model": name})
            assert reply.status == 400 and reply.error()["code"] == "invalid_value" and "model" in reply.error()["message"]
    assert not any(line.startswith("INFO hadal::request: forged") for line in server.log)
