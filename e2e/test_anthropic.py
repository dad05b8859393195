"""Anthropic's own client package against our server, call by call. The model is random, as in test_openai.py."""

import asyncio
import json
import time
from typing import Literal

import anthropic
import jsonschema
import pydantic
import pytest
from exchange import ask, key, metric, post, wait_for

USER = [{"role": "user", "content": "How deep is the trench?"}]
DEPTH = {
    "type": "object",
    "properties": {"place": {"enum": ["trench", "ridge"]}, "metres": {"type": "integer", "minimum": 1, "maximum": 11000}},
    "required": ["place", "metres"],
    "additionalProperties": False,
}
TIDE = {"type": "object", "properties": {"port": {"const": "Emden"}}, "required": ["port"], "additionalProperties": False}
TOOLS = [
    {"name": "depth", "description": "Looks it up.", "input_schema": DEPTH},
    {"name": "tide", "input_schema": TIDE},
]
# The package has no argument for it any more, and still lets it be said.
GREEDY = {"temperature": 0}
SCHEMAS = {"depth": DEPTH, "tide": TIDE}


def connect(server, kind=anthropic.Anthropic, **options):
    return kind(base_url=server.url, **{"api_key": "none", "max_retries": 0, "timeout": 60, **options})


@pytest.fixture(scope="module")
def client(server):
    with connect(server) as client:
        yield client


@pytest.fixture
def create(client):
    """Asks for a greedy answer of a few tokens, unless it is told otherwise."""

    def create(**fields):
        body = {**GREEDY, **fields.pop("extra_body", {})}
        return client.messages.create(**{"model": "tiny", "messages": USER, "max_tokens": 8, "extra_body": body, **fields})

    return create


def said(message):
    """What was said, without what differs between two answers that say the same."""
    blocks = [block.model_dump(exclude={"id", "parsed_output", "citations"}) for block in message.content]
    usage = message.usage
    read = (usage.input_tokens + (usage.cache_read_input_tokens or 0), usage.output_tokens)
    return message.role, blocks, message.stop_reason, message.stop_sequence, read


def mark(text):
    """A character that comes for the first time in the middle of a text."""
    return next(c for i, c in enumerate(text) if i > 3 and c.isascii() and c.isprintable() and c not in text[:i])


def test_create(create):
    message = create()
    assert message.type == "message" and message.id.startswith("msg_") and message.model == "tiny"
    (block,) = message.content
    assert block.type == "text" and message.stop_reason == "max_tokens" and message.stop_sequence is None
    assert message.usage.output_tokens == 8
    assert said(create()) == said(message)


def test_models(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    model = client.models.retrieve("tiny")
    assert (model.id, model.type, model.display_name, model.max_input_tokens) == ("tiny", "model", "tiny", 2048)
    assert abs(model.created_at.timestamp() - time.time()) < 600
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("huge")


def test_streamed_is_whole(client, create):
    whole = create(max_tokens=20)
    events = list(create(max_tokens=20, stream=True))
    kinds = [event.type for event in events]
    assert kinds[0] == "message_start" and kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert kinds.count("content_block_start") == 1 and kinds.count("content_block_delta") > 3
    assert "".join(event.delta.text for event in events if event.type == "content_block_delta") == whole.content[0].text
    with client.messages.stream(model="tiny", messages=USER, max_tokens=20, extra_body=GREEDY) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == whole.content[0].text == stream.get_final_text()
    assert said(final) == said(whole)
    assert final.usage.input_tokens + final.usage.cache_read_input_tokens == whole.usage.input_tokens + whole.usage.cache_read_input_tokens


def test_async(server, create):
    fields = {"model": "tiny", "messages": USER, "max_tokens": 8, "extra_body": GREEDY}

    async def run():
        async with connect(server, anthropic.AsyncAnthropic) as client:
            one = asyncio.create_task(client.messages.create(**fields))
            async with client.messages.stream(**fields) as stream:
                text = "".join([piece async for piece in stream.text_stream])
                return await one, text, await stream.get_final_message()

    one, text, final = asyncio.run(run())
    assert said(one) == said(final) == said(create())
    assert text == one.content[0].text


def test_stop_sequences(client, create):
    text = create(max_tokens=30).content[0].text
    end = mark(text)
    message = create(max_tokens=30, stop_sequences=["§§", end])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", end)
    assert message.content[0].text == text[: text.index(end)]
    with client.messages.stream(
        model="tiny", messages=USER, max_tokens=30, extra_body=GREEDY, stop_sequences=["§§", end]
    ) as stream:
        assert said(stream.get_final_message()) == said(message)


def test_blocks_and_marks(client, create):
    """Texts in blocks are one text, and a mark for a cache changes nothing but is checked."""
    mark = {"type": "ephemeral", "ttl": "1h"}
    blocks = [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief.", "cache_control": mark}]
    content = [{"type": "text", "text": "How deep is ", "cache_control": mark}, {"type": "text", "text": "the trench?"}]
    plain = create(system="Be brief.")
    assert said(create(system=blocks, messages=[{"role": "user", "content": content}])) == said(plain)
    assert said(create(system="Be brief.", cache_control={"type": "ephemeral"})) == said(plain)
    assert plain.content != create().content
    for wrong in [{"type": "for ever"}, {"ttl": "5m"}, {"type": "ephemeral", "ttl": "2h"},
                  {"type": "ephemeral", "scope": "moon"}, {"type": "ephemeral", "x": 1}]:
        with pytest.raises(anthropic.BadRequestError) as error:
            create(system=[{"type": "text", "text": "x", "cache_control": wrong}])
        assert "cache_control" in error.value.message
    # A system message within the conversation stands where the template puts all of them.
    inner = [{"role": "system", "content": "Be brief."}, *USER]
    assert said(create(messages=inner)) == said(plain)


def test_cached_tokens_are_told(create):
    """Tokens that were in the cache are counted apart, as published."""
    messages = [{"role": "user", "content": "The trench is deep. " * 40}]
    first, second = create(messages=messages).usage, create(messages=messages).usage
    assert second.cache_read_input_tokens >= 64
    total = first.input_tokens + first.cache_read_input_tokens
    assert second.input_tokens + second.cache_read_input_tokens == total


def test_count_tokens(client, create):
    for fields in [{}, {"system": "Be brief."}, {"tools": TOOLS}, {"tools": TOOLS, "tool_choice": {"type": "none"}},
                   {"messages": [*USER, {"role": "assistant", "content": "Very."}, *USER]}]:
        counted = client.messages.count_tokens(**{"model": "tiny", "messages": USER, **fields}).input_tokens
        usage = create(**fields).usage
        assert counted == usage.input_tokens + usage.cache_read_input_tokens


@pytest.mark.parametrize("template", ["v3_1", "v3", "v3_0324", "r1"])
@pytest.mark.parametrize(
    "choice",
    [{"type": "any"}, {"type": "any", "disable_parallel_tool_use": True}, {"type": "tool", "name": "tide"}],
    ids=["any", "one", "named"],
)
def test_demanded_calls(server_of, template, choice):
    client = connect(server_of(template))
    fields = {"model": "tiny", "messages": USER, "tools": TOOLS, "tool_choice": choice, "max_tokens": 900}
    if template == "r1":
        fields["thinking"] = {"type": "enabled", "budget_tokens": 5}
    for _ in range(6):
        kinds = set()
        with client.messages.stream(**fields) as stream:
            for event in stream:
                kinds.add(event.type)
            message = stream.get_final_message()
        if message.stop_reason == "max_tokens":
            continue  # White space between arguments may go on for long.
        assert message.stop_reason == "tool_use" and "input_json" in kinds
        calls = [block for block in message.content if block.type == "tool_use"]
        rest = [block.type for block in message.content if block.type != "tool_use"]
        assert calls and rest == (["thinking"] if template == "r1" else [])
        assert len({call.id for call in calls}) == len(calls)
        for call in calls:
            jsonschema.validate(call.input, SCHEMAS[call.name])
        if choice["type"] == "tool":
            assert [call.name for call in calls] == ["tide"]
        if "disable_parallel_tool_use" in choice:
            assert len(calls) == 1
        results = [{"type": "tool_result", "tool_use_id": call.id, "content": "10935"} for call in calls]
        history = [*USER, {"role": "assistant", "content": message.content}, {"role": "user", "content": results}]
        # A model that thinks is asked to here too, though behind a result it answers at once.
        again = client.messages.create(**{**fields, "messages": history, "max_tokens": 3, "tool_choice": {"type": "none"}})
        assert again.usage.output_tokens <= 3
        whole = client.messages.create(**fields)
        for block in whole.content:
            if block.type == "tool_use" and whole.stop_reason == "tool_use":
                jsonschema.validate(block.input, SCHEMAS[block.name])
        return
    pytest.fail("no answer came to the end of its calls")


def test_free_choice_of_tools(create):
    """With `auto` a random model calls nothing, and with `none` it does not hear of the tools."""
    plain, none, auto = create(), create(tools=TOOLS, tool_choice={"type": "none"}), create(tools=TOOLS)
    assert said(none) == said(plain)
    assert said(create(tools=TOOLS, tool_choice={"type": "auto", "disable_parallel_tool_use": True})) == said(auto)
    assert said(auto) != said(plain) and [block.type for block in auto.content] == ["text"]


def test_tool_runner(client):
    """The package's own loop: it calls a function of Python and sends the result back. `thread=False` has it send the
    whole conversation each time, as this server wants it."""
    calls = []

    @anthropic.beta_tool
    def tide(port: Literal["Emden"]) -> str:
        """Tells the tide.

        Args:
            port: Where.
        """
        calls.append(port)
        return "3.1"

    runner = client.beta.messages.tool_runner(
        model="tiny", messages=USER, tools=[tide], max_tokens=900, max_iterations=3, thread=False,
        tool_choice={"type": "tool", "name": "tide"},
    )
    messages = list(runner)
    assert len(messages) == 3 and set(calls) == {"Emden"}
    assert len(calls) >= sum(message.stop_reason == "tool_use" for message in messages[:2])


class Dive(pydantic.BaseModel):
    place: Literal["trench", "ridge"]
    is_deep: bool


def test_parse(client):
    """The package sends the schema of a model and reads the answer back into it."""
    for _ in range(6):
        fields = {"model": "tiny", "messages": USER, "max_tokens": 500, "output_format": Dive}
        with client.messages.stream(**fields) as stream:
            # Text that is cut off is no JSON, which the package says by an error of its own.
            try:
                streamed = stream.get_final_message()
                message = client.messages.parse(**fields)
            except pydantic.ValidationError:
                continue
        assert isinstance(message.parsed_output, Dive) and isinstance(streamed.parsed_output, Dive)
        return
    pytest.fail("no answer came to its end")


@pytest.mark.parametrize("template", ["r1", "v3_1"])
def test_thinking(server_of, template):
    client = connect(server_of(template))
    fields = {"model": "tiny", "messages": USER, "max_tokens": 40, "extra_body": GREEDY}
    on = {"type": "enabled", "budget_tokens": 10}
    whole = client.messages.create(thinking=on, **fields)
    assert [block.type for block in whole.content] == ["thinking", "text"]
    assert whole.content[0].thinking and whole.usage.output_tokens == 40
    with client.messages.stream(thinking=on, **fields) as stream:
        events = list(stream)
        assert said(stream.get_final_message()) == said(whole)
    kinds = [event.type for event in events]
    assert "thinking" in kinds and "text" in kinds
    assert "".join(event.thinking for event in events if event.type == "thinking") == whole.content[0].thinking
    # The reasoning is sent back as it came, and the template leaves it out.
    history = [*USER, {"role": "assistant", "content": whole.content}, *USER]
    without = [*USER, {"role": "assistant", "content": whole.content[1:]}, *USER]
    counts = [client.messages.count_tokens(model="tiny", messages=messages).input_tokens for messages in (history, without)]
    assert counts[0] == counts[1]
    # The model of R1 always thinks; that of V3.1 when it is asked to.
    if template == "r1":
        with pytest.raises(anthropic.BadRequestError) as error:
            client.messages.create(thinking={"type": "disabled"}, **fields)
        assert "always thinks" in error.value.message
        assert client.messages.create(**fields).content[0].type == "thinking"
    else:
        off = client.messages.create(thinking={"type": "disabled"}, **fields)
        assert said(off) == said(client.messages.create(**fields)) and off.content[0].type == "text"
    adaptive = client.messages.create(thinking={"type": "adaptive"}, **fields)
    assert said(adaptive) == said(client.messages.create(**fields))


def test_thinking_where_there_is_none(server_of):
    """A budget is the most that may be used. A model that does not think uses nothing of it."""
    client = connect(server_of("v3"))
    fields = {"model": "tiny", "messages": USER, "max_tokens": 8, "extra_body": GREEDY}
    plain = client.messages.create(**fields)
    assert [block.type for block in plain.content] == ["text"]
    for thinking in [{"type": "enabled", "budget_tokens": 10}, {"type": "adaptive"}, {"type": "disabled"}]:
        assert said(client.messages.create(thinking=thinking, **fields)) == said(plain)
    assert said(client.messages.create(output_config={"effort": "max"}, **fields)) == said(plain)


def test_thinking_that_is_not_shown(create, client):
    fields = {"max_tokens": 30, "thinking": {"type": "enabled", "budget_tokens": 10}}
    hidden = {**fields, "thinking": {**fields["thinking"], "display": "omitted"}}
    shown, whole = create(**fields), create(**hidden)
    assert [block.type for block in whole.content] == ["thinking", "text"] and whole.content[0].thinking == ""
    assert shown.content[0].thinking and whole.content[1:] == shown.content[1:] and whole.usage.output_tokens == 30
    with client.messages.stream(model="tiny", messages=USER, extra_body=GREEDY, **hidden) as stream:
        assert said(stream.get_final_message()) == said(whole)


def test_effort(create):
    """Effort is thought, where the model has the choice, unless it is said otherwise."""
    thinks = create(thinking={"type": "enabled", "budget_tokens": 2000})
    assert thinks.content[0].type == "thinking"
    for effort in ["low", "medium", "high", "xhigh", "max"]:
        assert said(create(output_config={"effort": effort}, thinking={"type": "adaptive"})) == said(thinks)
    off = {"type": "disabled"}
    assert said(create(output_config={"effort": "high"}, thinking=off)) == said(create(thinking=off)) == said(create())


@pytest.mark.parametrize("template", ["v3_1", "v3", "v3_0324", "r1"])
def test_an_answer_that_is_begun(server_of, template):
    """The answer goes on from the last message, if that is the assistant's: it is what follows the tokens up to there."""
    server = server_of(template)
    client = connect(server)
    messages = [*USER, {"role": "assistant", "content": "About 10,9"}]
    tokens = post(server, "/tokenize", {"messages": messages}).json()["tokens"]
    text = post(server, "/apply-template", {"messages": messages}).json()["prompt"]
    assert text.endswith("About 10,9") and "<think>" not in text
    follows = post(server, "/v1/completions", {"prompt": tokens, "max_tokens": 12, "temperature": 0}).json()["choices"][0]["text"]
    fields = {"model": "tiny", "messages": messages, "max_tokens": 12}
    message = client.messages.create(**fields, extra_body=GREEDY)
    assert [block.text for block in message.content] == [follows]
    assert message.usage.input_tokens + message.usage.cache_read_input_tokens == len(tokens)
    assert client.messages.count_tokens(model="tiny", messages=messages).input_tokens == len(tokens)
    with client.messages.stream(**fields, extra_body=GREEDY) as stream:
        assert said(stream.get_final_message()) == said(message)
    chat = post(server, "/v1/chat/completions", {**fields, **GREEDY}).json()
    assert chat["choices"][0]["message"]["content"] == follows and chat["usage"]["prompt_tokens"] == len(tokens)
    # What a tool gave has to follow a call.
    used = {"type": "tool_use", "id": "c", "name": "tide", "input": {}}
    with pytest.raises(anthropic.BadRequestError) as error:
        client.messages.create(**{**fields, "messages": [*USER, {"role": "assistant", "content": [used]}]})
    assert "calls tools" in error.value.message
    call = {"id": "c", "type": "function", "function": {"name": "tide", "arguments": "{}"}}
    reply = post(server, "/v1/chat/completions", {"messages": [*USER, {"role": "assistant", "content": None, "tool_calls": [call]}]})
    assert reply.status == 400 and (reply.error()["code"], reply.error()["param"]) == ("invalid_value", "messages")


LONG = {"model": "tiny", "messages": USER, "max_tokens": 1900}


def test_who_leaves_frees_the_place(server, client):
    cancelled = metric(server, "hadal_cancelled_requests_total")
    for _ in range(10):
        with client.messages.stream(**LONG) as stream:
            next(iter(stream.text_stream), None)
            still_runs = metric(server, "hadal_running_requests") == 1
        wait_for("the request is let go", lambda: metric(server, "hadal_running_requests") == 0, 5)
        if still_runs:
            wait_for("it is counted", lambda: metric(server, "hadal_cancelled_requests_total") == cancelled + 1, 5)
            return
    pytest.fail("every answer ended by itself at once")


def test_raw_responses(client):
    raw = client.messages.with_raw_response.create(
        model="tiny", messages=USER, max_tokens=2, extra_headers={"x-request-id": "dive-8"}
    )
    assert raw.headers["x-request-id"] == raw.headers["request-id"] == "dive-8"
    assert raw.parse()._request_id == "dive-8"
    with client.messages.with_streaming_response.create(model="tiny", messages=USER, max_tokens=2, stream=True) as response:
        lines = [line for line in response.iter_lines() if line]
    assert lines[0] == "event: message_start" and json.loads(lines[-1].removeprefix("data: ")) == {"type": "message_stop"}


def test_bad_requests_are_typed(client, create):
    for fields, part in [
        ({"messages": []}, "messages"),
        ({"extra_body": {"temperature": 1.5}}, "temperature"),
        ({"max_tokens": 5000}, "max_tokens"),
        ({"extra_body": {"temprature": 1}}, "did you mean temperature?"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "x"}}]}]}, "type"),
    ]:
        with pytest.raises(anthropic.BadRequestError) as error:
            create(**fields)
        body = error.value.body
        assert body["type"] == "error" and body["error"]["type"] == "invalid_request_error"
        assert part in body["error"]["message"] and body["request_id"] == error.value.request_id
    with pytest.raises(anthropic.NotFoundError) as error:
        create(model="huge")
    assert error.value.body["error"]["type"] == "not_found_error"
    with pytest.raises(anthropic.NotFoundError) as error:
        client.messages.batches.list()
    assert error.value.body["error"]["type"] == "not_found_error"


def test_what_is_too_large_hears_so(client, create):
    with pytest.raises(anthropic.APIStatusError) as error:
        create(messages=[{"role": "user", "content": "x" * (40 << 20)}])
    assert error.value.status_code == 413 and error.value.body["error"]["type"] == "request_too_large"
    assert create().usage.output_tokens == 8


def test_keys_are_typed(serve, tmp_path):
    keys = tmp_path / "keys.toml"
    keys.write_text(key("ann", "abc", "user", 2) + key("watch", "def", "metrics"))
    server = serve("--api-key-file", keys)
    fields = {"model": "tiny", "messages": USER, "max_tokens": 1}
    with pytest.raises(anthropic.AuthenticationError) as error:
        connect(server, api_key="wrong").messages.create(**fields)
    assert error.value.body["error"]["type"] == "authentication_error"
    with pytest.raises(anthropic.PermissionDeniedError):
        connect(server, api_key="def").messages.create(**fields)
    # The key may stand in either header.
    connect(server, api_key="abc").messages.create(**fields)
    connect(server, api_key=None, auth_token="abc").messages.create(**fields)
    with pytest.raises(anthropic.RateLimitError) as error:
        connect(server, api_key="abc").messages.create(**fields)
    assert 1 <= int(error.value.response.headers["retry-after"]) <= 30
    assert error.value.body["error"]["type"] == "rate_limit_error"


def test_a_full_server(serve):
    server = serve("--max-requests", "1")
    client = connect(server)
    with client.messages.stream(**{**LONG, "extra_body": GREEDY}) as stream:
        next(iter(stream))
        with pytest.raises(anthropic.InternalServerError) as error:
            client.messages.create(model="tiny", messages=USER, max_tokens=1)
        assert error.value.status_code == 503 and int(error.value.response.headers["retry-after"]) >= 1
        assert error.value.body["error"]["type"] == "overloaded_error"
    again = client.with_options(max_retries=4).messages.create(model="tiny", messages=USER, max_tokens=1)
    assert again.usage.output_tokens == 1


def test_an_answer_that_takes_too_long(serve):
    client = connect(serve("--request-timeout", "0.3"))
    fields = {**LONG, "extra_body": GREEDY}
    with pytest.raises(anthropic.InternalServerError) as error:
        client.messages.create(**fields)
    assert error.value.status_code == 504 and error.value.body["error"]["type"] == "timeout_error"
    with client.messages.stream(**fields) as stream, pytest.raises(anthropic.APIStatusError) as error:
        stream.until_done()
    assert error.value.body["error"]["type"] == "timeout_error"


def test_errors_of_wrong_paths_are_in_their_words(server):
    """Whoever speaks this interface reads its errors, also where nothing is."""
    for method, path, status, kind in [
        ("GET", "/v1/messages", 405, "invalid_request_error"),
        ("POST", "/v1/messages/batches", 404, "not_found_error"),
    ]:
        reply = ask(server, method, path, {} if method == "POST" else None)
        assert (reply.status, reply.json()["type"], reply.error()["type"]) == (status, "error", kind)
