"""OpenAI's own client package against our server, call by call.

The model is random, so nothing is asked of what it says, only that all ways to the same answer agree, and that what a
request demands of an answer holds.
"""

import asyncio
import json
import math
import re
import time
from pathlib import Path
from typing import Literal

import jsonschema
import openai
import pydantic
import pytest
from exchange import get, metric, post, wait_for

USER = [{"role": "user", "content": "How deep is the trench?"}]
WEATHER = {
    "type": "object",
    "properties": {"city": {"enum": ["Bonn", "Köln"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TIDE = {"type": "object", "properties": {"port": {"const": "Emden"}}, "required": ["port"], "additionalProperties": False}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "tide", "parameters": TIDE}},
]
SCHEMAS = {"weather": WEATHER, "tide": TIDE}
# Tokens of the tests' tokenizer.
THINK_END = "511"
CALLS_BEGIN = "501"


def connect(server, kind=openai.OpenAI, **options):
    options = {"api_key": "none", "max_retries": 0, "timeout": 60, **options}
    return kind(base_url=f"{server.url}/v1", **options)


@pytest.fixture(scope="module")
def client(server):
    with connect(server) as client:
        yield client


@pytest.fixture
def chat(client):
    """Asks for a greedy answer of a few tokens, unless it is told otherwise."""

    def chat(**fields):
        return client.chat.completions.create(**{"model": "tiny", "messages": USER, "temperature": 0, "max_tokens": 8, **fields})

    return chat


@pytest.fixture
def complete(client):
    def complete(**fields):
        return client.completions.create(**{"model": "tiny", "prompt": "The trench is", "temperature": 0, "max_tokens": 8, **fields})

    return complete


def gather(stream):
    """What the chunks of a streamed chat add up to, by choice."""
    choices, usage = {}, None
    for chunk in stream:
        assert chunk.object == "chat.completion.chunk"
        usage = chunk.usage or usage
        for choice in chunk.choices:
            all = choices.setdefault(
                choice.index, {"role": [], "content": "", "reasoning": "", "calls": [], "logprobs": [], "reasons": []}
            )
            delta = choice.delta
            assert not all["reasons"], "nothing follows the end of a choice"
            all["role"] += [delta.role] if delta.role else []
            all["content"] += delta.content or ""
            all["reasoning"] += getattr(delta, "reasoning_content", None) or ""
            for call in delta.tool_calls or []:
                assert call.index == len(all["calls"])
                all["calls"].append((call.function.name, call.function.arguments))
            all["logprobs"] += choice.logprobs.content if choice.logprobs else []
            all["reasons"] += [choice.finish_reason] if choice.finish_reason else []
    return choices, usage


def same(whole, streamed):
    """Whether a whole answer and the sum of a streamed one are the same, choice by choice."""
    choices, _ = streamed
    assert len(choices) == len(whole.choices)
    for choice in whole.choices:
        all, message = choices[choice.index], choice.message
        assert all["role"] == ["assistant"]
        assert all["content"] == (message.content or "")
        assert all["reasoning"] == (getattr(message, "reasoning_content", None) or "")
        assert all["calls"] == [(call.function.name, call.function.arguments) for call in message.tool_calls or []]
        assert all["logprobs"] == (choice.logprobs.content if choice.logprobs else [])
        assert all["reasons"] == [choice.finish_reason]


def test_models(client):
    models = client.models.list()
    assert [model.id for model in models] == ["tiny"]
    model = client.models.retrieve("tiny")
    assert (model.id, model.object, model.owned_by) == ("tiny", "model", "hadal")
    assert model.max_model_len == 2048
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("huge")
    assert error.value.code == "model_not_found" and "tiny" in error.value.message


def test_chat(chat):
    answer = chat(max_tokens=5)
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-") and answer.model == "tiny"
    assert answer.choices[0].message.role == "assistant" and answer.choices[0].finish_reason == "length"
    usage = answer.usage
    assert usage.completion_tokens == 5 and usage.total_tokens == usage.prompt_tokens + 5
    assert abs(answer.created - time.time()) < 60 and answer.system_fingerprint.startswith("hadal-")
    assert chat(max_tokens=None, max_completion_tokens=5).choices == answer.choices
    assert chat(max_completion_tokens=3, max_tokens=None).usage.completion_tokens == 3


def test_chat_async(server, chat):
    async def ask():
        async with connect(server, openai.AsyncOpenAI) as client:
            one = client.chat.completions.create(model="tiny", messages=USER, temperature=0, max_tokens=8)
            stream = client.chat.completions.create(model="tiny", messages=USER, temperature=0, max_tokens=8, stream=True)
            one, stream = await asyncio.gather(one, stream)
            return one, [chunk async for chunk in stream]

    one, chunks = asyncio.run(ask())
    assert one.choices == chat().choices
    same(one, gather(chunks))


@pytest.mark.parametrize("fields", [{}, {"n": 3, "temperature": 1, "seed": 5}, {"logprobs": True, "top_logprobs": 4}])
@pytest.mark.parametrize("include_usage", [None, False, True])
def test_streamed_is_whole(chat, fields, include_usage):
    fields = {"max_tokens": 24, **fields}
    whole = chat(**fields)
    options = {} if include_usage is None else {"stream_options": {"include_usage": include_usage}}
    chunks = list(chat(stream=True, **options, **fields))
    streamed = gather(chunks)
    same(whole, streamed)
    assert len({chunk.id for chunk in chunks}) == 1
    assert len(chunks) > 5, "it comes in pieces"
    if include_usage:
        assert chunks[-1].choices == []
        assert all("usage" in chunk.model_fields_set and chunk.usage is None for chunk in chunks[:-1])
        usage = streamed[1]
        assert (usage.prompt_tokens, usage.completion_tokens) == (whole.usage.prompt_tokens, whole.usage.completion_tokens)
    else:
        assert streamed[1] is None and all(chunk.choices for chunk in chunks)


def test_stream_helper(client, chat):
    # The package takes an answer that was cut off for an error, so this one ends by itself.
    stop = mark(chat(max_tokens=30).choices[0].message.content)
    fields = {"logprobs": True, "stop": stop, "max_tokens": 30}
    whole = chat(**fields)
    kinds, text = [], ""
    with client.chat.completions.stream(
        model="tiny", messages=USER, temperature=0, stream_options={"include_usage": True}, **fields
    ) as stream:
        for event in stream:
            kinds.append(event.type)
            if event.type == "content.delta":
                text += event.delta
                assert event.snapshot == text
        final = stream.get_final_completion()
    assert text == whole.choices[0].message.content == final.choices[0].message.content
    assert final.choices[0].logprobs.content == whole.choices[0].logprobs.content
    assert final.usage.completion_tokens == whole.usage.completion_tokens
    assert {"chunk", "content.delta", "content.done", "logprobs.content.delta", "logprobs.content.done"} == set(kinds)


class Dive(pydantic.BaseModel):
    place: Literal["trench", "ridge"]
    metres: Literal[6000, 10935]
    is_deep: bool


def test_parse(client):
    """The package sends the model's schema and reads the answer back into it."""
    fields = {"model": "tiny", "messages": USER, "response_format": Dive, "max_tokens": 400}
    for seed in range(3):
        answer = client.chat.completions.parse(seed=seed, **fields)
        assert answer.choices[0].finish_reason == "stop"
        dive = answer.choices[0].message.parsed
        assert isinstance(dive, Dive)
        with client.chat.completions.stream(seed=seed, **fields) as stream:
            assert stream.get_final_completion().choices[0].message.parsed == dive
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(**{**fields, "max_tokens": 2})


def test_parse_tools(client):
    """Tools from models of the package, whose arguments are read back into them."""
    tool = openai.pydantic_function_tool(Dive)
    fields = {"model": "tiny", "messages": USER, "tools": [tool], "tool_choice": "required", "max_tokens": 600, "seed": 2}
    answer = client.chat.completions.parse(parallel_tool_calls=False, **fields)
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "Dive" and isinstance(call.function.parsed_arguments, Dive)
    with client.chat.completions.stream(parallel_tool_calls=False, **fields) as stream:
        kinds = [event.type for event in stream]
        (streamed,) = stream.get_final_completion().choices[0].message.tool_calls
    assert streamed.function == call.function
    assert "tool_calls.function.arguments.done" in kinds


@pytest.mark.parametrize("template", ["v3_1", "v3", "v3_0324", "r1"])
@pytest.mark.parametrize("parallel", [None, False])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "tide"}}], ids=["any", "named"])
def test_demanded_calls(server_of, template, choice, parallel):
    client = connect(server_of(template))
    fields = {"model": "tiny", "messages": USER, "tools": TOOLS, "tool_choice": choice, "max_tokens": 900, "temperature": 1}
    if template == "r1":
        # Reasoning is free, and a random model would not end it: this token does.
        fields["logit_bias"] = {THINK_END: 4}
    if parallel is not None:
        fields["parallel_tool_calls"] = parallel
    for seed in range(4):
        whole = client.chat.completions.create(seed=seed, **fields)
        if whole.choices[0].finish_reason == "length":
            continue  # White space between arguments may go on for long.
        message = whole.choices[0].message
        assert whole.choices[0].finish_reason == "tool_calls" and message.content is None
        calls = message.tool_calls
        assert len({call.id for call in calls}) == len(calls) and all(call.type == "function" for call in calls)
        for call in calls:
            jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])
        if choice != "required":
            assert [call.function.name for call in calls] == ["tide"]
        assert parallel is None or len(calls) == 1
        same(whole, gather(client.chat.completions.create(stream=True, seed=seed, **fields)))
        return
    pytest.fail("no seed came to the end of its calls")


@pytest.mark.parametrize("template", ["v3_1", "v3", "v3_0324", "r1"])
def test_strict_tools_where_the_model_may_choose(server_of, template):
    """An answer is free until it begins a call, to which it is led here; what follows holds to the schema."""
    server = server_of(template)

    def answer(strict, bias, **fields):
        tools = [{**tool, "function": {**tool["function"], "strict": strict}} for tool in TOOLS]
        body = {"messages": USER, "tools": tools, "max_tokens": 600, "temperature": 0, "logit_bias": bias, **fields}
        reply = post(server, "/v1/chat/completions", body)
        assert reply.status == 200, reply.body
        return reply.json()["choices"][0]

    # A model that thinks ends that first.
    thinks = {THINK_END: 100} if template == "r1" else {}
    led = {CALLS_BEGIN: 99, **thinks}
    found = 0
    for seed in range(8):
        fields = {"temperature": 1, "seed": seed, "parallel_tool_calls": False}
        choice = answer(True, led, **fields)
        if choice["finish_reason"] == "tool_calls":
            (call,) = choice["message"]["tool_calls"]
            jsonschema.validate(json.loads(call["function"]["arguments"]), SCHEMAS[call["function"]["name"]])
            found += 1
    assert found, "no answer came to the end of its call"
    # Without it, what is led to a call writes what it likes, and that is none.
    assert answer(False, led, max_tokens=30)["message"].get("tool_calls") is None
    # An answer that calls nothing is what it is without.
    assert answer(True, {}, max_tokens=20)["message"] == answer(False, {}, max_tokens=20)["message"]


def test_strict_schemas_are_ones_that_can_be_held(server):
    wrong = {"type": "object", "properties": {"a": {"type": "string", "contentMediaType": "x", "not": {}}}}
    tools = lambda strict: [{"type": "function", "function": {"name": "f", "parameters": wrong, "strict": strict}}]
    body = {"messages": USER, "max_tokens": 1}
    assert post(server, "/v1/chat/completions", {**body, "tools": tools(False)}).status == 200
    reply = post(server, "/v1/chat/completions", {**body, "tools": tools(True)})
    assert reply.status == 400 and (reply.error()["code"], reply.error()["param"]) == ("invalid_grammar", "tools")


def test_free_choice_of_tools(chat):
    """With `auto` a random model calls nothing, and with `none` it does not hear of the tools."""
    plain, auto, none = chat(), chat(tools=TOOLS), chat(tools=TOOLS, tool_choice="none")
    assert chat(tools=TOOLS, tool_choice="auto").choices == auto.choices
    assert none.choices == plain.choices and none.usage.prompt_tokens == plain.usage.prompt_tokens
    assert auto.usage.prompt_tokens > plain.usage.prompt_tokens
    assert auto.choices[0].message.tool_calls is None


def test_the_way_of_a_call(client):
    """A call, its result, and what follows, as an agent goes."""
    fields = {"model": "tiny", "tools": TOOLS, "seed": 1, "max_tokens": 600}
    named = {"type": "function", "function": {"name": "tide"}}
    first = client.chat.completions.create(messages=USER, tool_choice=named, **fields).choices[0].message
    (call,) = first.tool_calls
    result = {"role": "tool", "tool_call_id": call.id, "content": json.dumps({"metres": 3.1})}
    messages = [*USER, first.model_dump(exclude_none=True), result]
    second = client.chat.completions.create(messages=messages, tool_choice="none", **{**fields, "max_tokens": 4})
    assert second.choices[0].message.content is not None and second.usage.completion_tokens <= 4


@pytest.mark.parametrize("top", [None, 0, 5, 20])
def test_logprobs(chat, top):
    fields = {} if top is None else {"top_logprobs": top}
    choice = chat(logprobs=True, **fields).choices[0]
    tokens = choice.logprobs.content
    assert len(tokens) == 8 and choice.logprobs.refusal is None
    assert b"".join(bytes(token.bytes) for token in tokens).decode(errors="replace") == choice.message.content
    for token in tokens:
        assert token.logprob <= 0 and len(token.top_logprobs) == (top or 0)
        ordered = [entry.logprob for entry in token.top_logprobs]
        assert ordered == sorted(ordered, reverse=True)
        if top:
            # Greedy, so the token is the first of the likeliest.
            assert (token.bytes, token.logprob) == (token.top_logprobs[0].bytes, ordered[0])
            assert sum(map(math.exp, ordered)) <= 1 + 1e-5
    assert chat().choices[0].logprobs is None


def test_probabilities_take_no_more_memory_than_they_must(serve):
    """The answers with all their probabilities are some megabytes of JSON, and as a tree of values would be fifty times that."""
    server = serve()
    peak = lambda: int(re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{server.process.pid}/status").read_text())[1]) * 1024
    body = {"messages": USER, "max_tokens": 200, "n": 16, "temperature": 1, "ignore_eos": True}
    assert post(server, "/v1/chat/completions", body).status == 200
    before = peak()
    reply = post(server, "/v1/chat/completions", {**body, "logprobs": True, "top_logprobs": 20})
    assert reply.json()["usage"]["completion_tokens"] == 3200 and len(reply.body) > 4e6
    assert peak() - before < 40e6


def test_seeds(chat):
    def say(**fields):
        return [choice.message.content for choice in chat(temperature=1, max_tokens=12, **fields).choices]

    assert say(seed=7) == say(seed=7) != say(seed=8)
    assert say(seed=-7) == say(seed=-7)
    three = say(seed=7, n=3)
    assert len(set(three)) == 3 and three[:1] == say(seed=7), "the first of several answers is that of the seed alone"
    assert say() != say(), "without a seed each answer has its own"


def mark(text):
    """A character that comes for the first time in the middle of a text."""
    return next(c for i, c in enumerate(text) if i > 3 and c.isascii() and c.isprintable() and c not in text[:i])


def test_stop(chat):
    text = chat(max_tokens=30).choices[0].message.content
    end = mark(text)
    for stop in [end, ["§§", end]]:
        choice = chat(max_tokens=30, stop=stop).choices[0]
        assert choice.message.content == text[: text.index(end)] and choice.finish_reason == "stop"
        same(chat(max_tokens=30, stop=stop), gather(chat(max_tokens=30, stop=stop, stream=True)))
    # A string that begins but does not come is said in the end.
    assert chat(max_tokens=30, stop=text + "§").choices[0].message.content == text


def test_what_shapes_the_drawing(server, chat):
    greedy = chat(logprobs=True, top_logprobs=2, max_tokens=12).choices[0].logprobs.content[0]
    tokens = post(server, "/tokenize", {"prompt": greedy.token, "add_special_tokens": False}).json()["tokens"]
    banned = chat(logit_bias={str(tokens[0]): -100}, logprobs=True).choices[0].logprobs.content[0]
    assert len(tokens) == 1 and banned.bytes == greedy.top_logprobs[1].bytes, "the second is the first without the first"
    forced = chat(logit_bias={THINK_END: 0, "42": 100}, logprobs=True, max_tokens=3).choices[0]
    assert len({tuple(token.bytes) for token in forced.logprobs.content}) == 1
    for penalty in ["frequency_penalty", "presence_penalty"]:
        repeated = chat(logit_bias={"42": 100, "43": 99}, max_tokens=6, logprobs=True, **{penalty: 2}).choices[0]
        assert len({tuple(token.bytes) for token in repeated.logprobs.content}) == 2, penalty
    drawn = {seed: chat(temperature=1.9, top_p=1e-9, seed=seed).choices[0].message.content for seed in range(3)}
    assert set(drawn.values()) == {chat().choices[0].message.content}, "top_p of nothing is greedy"
    hot = chat(temperature=1.9, seed=1).choices[0].message.content
    assert hot != chat().choices[0].message.content
    for field, value in [("top_k", 1), ("min_p", 1.0)]:
        one = chat(temperature=1.9, seed=1, extra_body={field: value}).choices[0].message.content
        assert one == chat().choices[0].message.content, field


def test_formats(chat):
    assert isinstance(json.loads(say_json(chat, {"type": "json_object"})), dict)
    schema = {"name": "weather", "schema": WEATHER, "strict": True}
    jsonschema.validate(json.loads(say_json(chat, {"type": "json_schema", "json_schema": schema})), WEATHER)
    assert chat(response_format={"type": "text"}).choices == chat().choices
    with pytest.raises(openai.BadRequestError) as error:
        chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "depth"}}})
    assert error.value.code == "invalid_grammar" and error.value.param == "response_format"


def say_json(chat, response_format):
    """An answer that came to its end, the same whole and streamed."""
    for seed in range(8):
        fields = {"response_format": response_format, "temperature": 1, "max_tokens": 500, "seed": seed}
        whole = chat(**fields)
        same(whole, gather(chat(stream=True, **fields)))
        if whole.choices[0].finish_reason == "stop":
            return whole.choices[0].message.content
    pytest.fail("no seed came to the end of its JSON")


@pytest.mark.parametrize("template", ["r1", "v3_1"])
def test_reasoning(server_of, template):
    """What stands before `</think>` is reasoning, whole and streamed, and its tokens are counted."""
    client = connect(server_of(template))
    fields = {"model": "tiny", "messages": USER, "max_tokens": 60, "temperature": 1, "logit_bias": {THINK_END: 3}}
    if template == "v3_1":
        fields["extra_body"] = {"chat_template_kwargs": {"thinking": True}}
        efforts = {**fields, "extra_body": None, "seed": 0}
        high = client.chat.completions.create(reasoning_effort="high", **efforts).choices[0].message
        assert high.reasoning_content is not None
        assert high == client.chat.completions.create(seed=0, **fields).choices[0].message
        none = client.chat.completions.create(reasoning_effort="none", **efforts).choices[0].message
        assert not hasattr(none, "reasoning_content")
    both = 0
    for seed in range(12):
        whole = client.chat.completions.create(seed=seed, logprobs=True, top_logprobs=2, **fields)
        chunks = list(client.chat.completions.create(seed=seed, logprobs=True, top_logprobs=2, stream=True, **fields))
        same(whole, gather(chunks))
        message = whole.choices[0].message
        assert "</think>" not in (message.content or "") + message.reasoning_content or message.content
        reasoning_tokens = whole.usage.completion_tokens_details.reasoning_tokens
        logprobs = whole.choices[0].logprobs
        assert len(logprobs.content) + len(logprobs.reasoning_content) == whole.usage.completion_tokens
        assert len(logprobs.reasoning_content) == reasoning_tokens
        streamed = [token for chunk in chunks for choice in chunk.choices if choice.logprobs
                    for token in getattr(choice.logprobs, "reasoning_content", None) or []]
        assert streamed == logprobs.reasoning_content
        both += bool(message.reasoning_content and message.content)
    assert both >= 3, "some seeds reason and answer"


def test_format_begins_behind_reasoning(server_of):
    client = connect(server_of("r1"))
    fields = {"model": "tiny", "messages": USER, "max_tokens": 500, "logit_bias": {THINK_END: 4}}
    found = 0
    for seed in range(6):
        answer = client.chat.completions.create(
            response_format={"type": "json_schema", "json_schema": {"name": "d", "schema": Dive.model_json_schema()}},
            seed=seed, **fields,
        ).choices[0]
        if answer.finish_reason == "stop" and answer.message.reasoning_content:
            Dive.model_validate_json(answer.message.content)
            found += 1
    assert found


def test_raw_and_streaming_responses(client):
    fields = {"model": "tiny", "messages": USER, "temperature": 0, "max_tokens": 4}
    raw = client.chat.completions.with_raw_response.create(extra_headers={"x-request-id": "dive-7"}, **fields)
    assert raw.status_code == 200 and raw.request_id == "dive-7"
    assert raw.headers["content-type"] == "application/json"
    assert raw.parse().choices[0].finish_reason == "length"
    with client.chat.completions.with_streaming_response.create(stream=True, **fields) as response:
        assert response.headers["content-type"] == "text/event-stream"
        assert response.headers["cache-control"] == "no-store"
        lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"
    # A name for a request that is none is replaced.
    raw = client.chat.completions.with_raw_response.create(extra_headers={"x-request-id": "a b"}, **fields)
    assert raw.request_id != "a b" and len(raw.request_id) == 32


LONG = {"model": "tiny", "messages": USER, "max_tokens": 1900, "extra_body": {"ignore_eos": True}}


@pytest.mark.parametrize("way", ["closed stream", "helper", "timeout", "timeout of a stream", "async"])
def test_who_leaves_frees_the_place(server, way):
    """Whoever closes a stream, or waits no longer, takes the request along: also one that is not streamed."""
    cancelled = metric(server, "hadal_cancelled_requests_total")
    tokens = metric(server, "hadal_generation_tokens_total")
    with connect(server) as client:
        if way == "closed stream":
            stream = client.chat.completions.create(stream=True, **LONG)
            next(iter(stream))
            assert metric(server, "hadal_running_requests") == 1
            stream.close()
        elif way == "helper":
            with client.chat.completions.stream(**LONG) as stream:
                next(iter(stream))
        elif way == "timeout":
            with pytest.raises(openai.APITimeoutError):
                client.with_options(timeout=0.2).chat.completions.create(**LONG)
        elif way == "timeout of a stream":
            with client.chat.completions.create(stream=True, **LONG) as stream:
                for _, _ in zip(range(5), stream):
                    pass
        else:
            asyncio.run(leave_async(server))
        wait_for("the request is let go", lambda: metric(server, "hadal_running_requests") == 0, 5)
    wait_for("it is counted", lambda: metric(server, "hadal_cancelled_requests_total") == cancelled + 1, 5)
    assert metric(server, "hadal_generation_tokens_total") - tokens < 1900
    assert get(server, "/stats").json()["kv_blocks_in_use"] == 0


async def leave_async(server):
    async with connect(server, openai.AsyncOpenAI) as client:
        task = asyncio.create_task(client.chat.completions.create(**LONG))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def test_complete(complete):
    answer = complete()
    assert answer.object == "text_completion" and answer.id.startswith("cmpl-")
    assert answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens == 8
    text = answer.choices[0].text
    two = complete(prompt=["The trench is", "A ridge"])
    assert [choice.index for choice in two.choices] == [0, 1] and two.choices[0].text == text
    assert two.choices[1].text == complete(prompt="A ridge").choices[0].text
    assert two.usage.completion_tokens == 16
    assert complete(max_tokens=openai.omit).usage.completion_tokens <= 16


def test_prompts_of_tokens(server, complete):
    tokens = post(server, "/tokenize", {"prompt": "The trench is"}).json()["tokens"]
    text = complete().choices[0].text
    assert complete(prompt=tokens).choices[0].text == text
    assert [choice.text for choice in complete(prompt=[tokens, tokens[:3], tokens]).choices][::2] == [text, text]
    with pytest.raises(openai.BadRequestError) as error:
        complete(prompt=[10**9])
    assert error.value.code == "invalid_token"


@pytest.mark.parametrize("fields", [{}, {"n": 2, "temperature": 1, "seed": 3}, {"prompt": ["a", "bc"]}, {"echo": True}, {"logprobs": 3}])
def test_streamed_completion_is_whole(complete, fields):
    whole = complete(**fields)
    texts = {choice.index: "" for choice in whole.choices}
    logprobs = {choice.index: [] for choice in whole.choices}
    reasons, usage = {}, None
    for chunk in complete(stream=True, stream_options={"include_usage": True}, **fields):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            if choice.logprobs:
                logprobs[choice.index] += zip(choice.logprobs.tokens, choice.logprobs.token_logprobs, choice.logprobs.text_offset)
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    for choice in whole.choices:
        assert (texts[choice.index], reasons[choice.index]) == (choice.text, choice.finish_reason)
        if fields.get("logprobs"):
            listed = choice.logprobs
            assert logprobs[choice.index] == list(zip(listed.tokens, listed.token_logprobs, listed.text_offset))
    assert usage.completion_tokens == whole.usage.completion_tokens


def test_best_of(complete):
    fields = {"temperature": 1.3, "seed": 9, "max_tokens": 6, "logprobs": 1}

    def mean(choice):
        return sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs)

    all = sorted(complete(n=5, **fields).choices, key=mean, reverse=True)
    best = complete(n=2, best_of=5, **fields)
    assert [choice.text for choice in best.choices] == [choice.text for choice in all[:2]]
    assert best.usage.completion_tokens == 30, "those that are not shown are counted too"
    for wrong, param in [({"n": 3, "best_of": 2}, "best_of"), ({"best_of": 17}, "best_of"), ({"n": 10**6}, "n")]:
        with pytest.raises(openai.BadRequestError) as error:
            complete(**wrong)
        assert error.value.param == param
    with pytest.raises(openai.BadRequestError):
        complete(best_of=2, stream=True)


def test_suffix(server, complete):
    """The hole between two texts is put to the model as the published models were trained."""
    filled = complete(prompt="The trench", suffix="metres deep", echo=True, logprobs=0)
    tokens = post(server, "/tokenize", {"prompt": "The trench"}).json()["tokens"]
    rest = post(server, "/tokenize", {"prompt": "metres deep", "add_special_tokens": False}).json()["tokens"]
    begin, hole, end = 496, 495, 497
    prompt = [tokens[0], begin, *tokens[1:], hole, *rest, end]
    assert filled.usage.prompt_tokens == len(prompt)
    assert filled.choices[0].logprobs == complete(prompt=prompt, echo=True, logprobs=0).choices[0].logprobs
    assert complete(suffix="metres deep").choices[0].text != complete().choices[0].text


def test_echoed_probabilities_are_those_of_the_answer(server, complete):
    """What an evaluation harness asks: the probabilities of a text that is given are those that it had when it was drawn.

    A given text takes the direct form of attention and an answer that of decoding, so the last bits differ: at most 8e-6
    was seen in 360 tokens of this model.
    """
    prompt = post(server, "/tokenize", {"prompt": "The trench is"}).json()["tokens"]
    drawn = complete(prompt=prompt, max_tokens=20, logprobs=5, temperature=1, seed=3, extra_body={"ignore_eos": True})
    listed = drawn.choices[0].logprobs
    tokens = prompt + ids_of(server, prompt, listed.tokens, seed=3)
    echo = complete(prompt=tokens, max_tokens=0, echo=True, logprobs=5)
    given = echo.choices[0].logprobs
    assert echo.usage.completion_tokens == 0 and len(given.tokens) == len(tokens)
    assert given.token_logprobs[0] is None and given.top_logprobs[0] is None
    assert given.tokens[len(prompt) :] == listed.tokens
    assert given.token_logprobs[len(prompt) :] == pytest.approx(listed.token_logprobs, abs=2e-5)
    for a, b in zip(given.top_logprobs[len(prompt) :], listed.top_logprobs):
        assert list(a) == list(b) and list(a.values()) == pytest.approx(list(b.values()), abs=2e-5)
    # One more token, as harnesses that do not know of 0 ask.
    one = complete(prompt=tokens, max_tokens=1, echo=True, logprobs=5).choices[0].logprobs
    assert one.token_logprobs[:-1] == given.token_logprobs
    batch = complete(prompt=[tokens, tokens[:9]], max_tokens=0, echo=True, logprobs=5)
    assert batch.choices[0].logprobs == given
    assert batch.choices[1].logprobs.token_logprobs == given.token_logprobs[:9]


def ids_of(server, prompt, texts, seed):
    """The ids of drawn tokens, by asking what each of them is called."""
    names = {}
    for id in range(512):
        answer = post(server, "/v1/completions", {"prompt": [0, id], "max_tokens": 0, "echo": True, "logprobs": 0}).json()
        names.setdefault(answer["choices"][0]["logprobs"]["tokens"][1], id)
    return [names[text] for text in texts]


def test_errors(server, client, chat):
    for fields, code, param in [
        ({"messages": []}, "invalid_value", "messages"),
        ({"temperature": 2.5}, "invalid_value", "temperature"),
        ({"max_tokens": 5000}, "context_length_exceeded", "max_completion_tokens"),
        ({"messages": [{"role": "user", "content": "deep " * 4000}]}, "context_length_exceeded", "messages"),
        ({"extra_body": {"temprature": 1}}, "unknown_parameter", "temprature"),
    ]:
        with pytest.raises(openai.BadRequestError) as error:
            chat(**fields)
        assert (error.value.code, error.value.param, error.value.type) == (code, param, "invalid_request_error")
        assert error.value.request_id
    assert "did you mean temperature?" in error.value.message
    with pytest.raises(openai.NotFoundError) as error:
        chat(model="huge")
    assert error.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="tiny", input="x")
    with pytest.raises(openai.APIConnectionError):
        openai.OpenAI(base_url="http://127.0.0.1:9/v1", api_key="none", max_retries=0).models.list()


def test_an_answer_that_stops_by_itself_was_not_left(serve):
    """The engine is told to stop behind a stop string and behind the only call, and nobody has left."""
    server = serve()
    client = connect(server)
    fields = {"model": "tiny", "messages": USER, "seed": 1}
    stopped = client.chat.completions.create(stop=["e", "a", "i", "o", " "], max_tokens=200, **fields)
    assert stopped.choices[0].finish_reason == "stop" and stopped.usage.completion_tokens < 200
    one = {"type": "function", "function": {"name": "tide"}}
    client.chat.completions.create(tools=TOOLS, tool_choice=one, parallel_tool_calls=False, max_tokens=400, **fields)
    wait_for("the engine is done", lambda: metric(server, "hadal_running_requests") == 0, 5)
    stats = get(server, "/stats").json()
    assert (stats["requests_total"], stats["cancelled_total"], metric(server, "hadal_cancelled_requests_total")) == (2, 0, 0)


def test_a_full_server(serve):
    """503 with Retry-After, which the package waits for and tries again by itself."""
    server = serve("--max-requests", "1")
    client = connect(server)
    stream = client.chat.completions.create(stream=True, **LONG)
    next(iter(stream))
    with pytest.raises(openai.InternalServerError) as error:
        client.chat.completions.create(model="tiny", messages=USER, max_tokens=1)
    assert error.value.status_code == 503 and error.value.code == "too_many_requests"
    assert int(error.value.response.headers["retry-after"]) >= 1
    stream.close()
    again = client.with_options(max_retries=4).chat.completions.create(model="tiny", messages=USER, max_tokens=1)
    assert again.usage.completion_tokens == 1


def test_an_answer_that_takes_too_long(serve):
    server = serve("--request-timeout", "0.3")
    client = connect(server)
    with pytest.raises(openai.InternalServerError) as error:
        client.chat.completions.create(**LONG)
    assert error.value.status_code == 504 and error.value.code == "request_timeout"
    with pytest.raises(openai.APIError) as error:
        list(client.chat.completions.create(stream=True, **LONG))
    assert error.value.code == "request_timeout", "an error in the middle of a stream is an event that the package raises"
    wait_for("both are let go", lambda: metric(server, "hadal_running_requests") == 0, 5)


def test_a_text_may_fill_the_context(server, complete):
    tokens = [5 + i % 400 for i in range(2048)]
    whole = complete(prompt=tokens, max_tokens=0, echo=True, logprobs=0)
    assert whole.usage.prompt_tokens == len(whole.choices[0].logprobs.tokens) == 2048
    # What nobody asked for is as long as there is room.
    answer = complete(prompt=tokens[:2043], max_tokens=openai.NOT_GIVEN, extra_body={"ignore_eos": True})
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (5, "length")
    for prompt, fields, param in [(tokens, {}, "prompt"), (tokens + [5], {"max_tokens": 0, "echo": True}, "prompt"), (tokens[:2043], {"max_tokens": 6}, "max_tokens")]:
        reply = post(server, "/v1/completions", {"prompt": prompt, **fields})
        assert (reply.status, reply.error()["code"], reply.error()["param"]) == (400, "context_length_exceeded", param)


def test_more_answers_than_may_wait(serve):
    """A request that could never come in between others gets in where nobody else waits."""
    server = serve("--max-batch-size", 1, "--max-enqueued-batches", 2)
    reply = post(server, "/v1/completions", {"prompt": "x", "n": 9, "max_tokens": 2})
    assert reply.status == 200 and len(reply.json()["choices"]) == 9
