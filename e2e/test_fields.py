"""Every field that the two client packages publish, and what becomes of it here: honoured, or refused with 400.

The tables say which. A release of a package that adds a field fails `test_every_field_is_known` until somebody has
decided what is to become of it.
"""

import json
import time
import typing
from dataclasses import dataclass, field

import anthropic.types as at
import openai.types.chat as oc
import openai.types.shared_params as op
import pytest
from anthropic.types import content_block_param, message_count_tokens_params, message_create_params
from anthropic.types import thinking_config_param, tool_choice_param, tool_union_param
from anthropic.types.beta import message_create_params as beta_create_params
from openai.types import completion_create_params
from openai.types.chat import chat_completion_content_part_param, chat_completion_message_param
from openai.types.chat import chat_completion_tool_choice_option_param, chat_completion_tool_union_param
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.shared_params import response_format_json_schema
from exchange import get, post

USER = [{"role": "user", "content": "How deep is the trench?"}]
PORT = {"type": "object", "properties": {"port": {"const": "Emden"}}, "required": ["port"], "additionalProperties": False}
FUNCTION = {"type": "function", "function": {"name": "tide", "parameters": PORT}}
TOOL = {"name": "tide", "input_schema": PORT}
CALL = {"id": "c", "type": "function", "function": {"name": "tide", "arguments": "{}"}}
CHAT = {"model": "tiny", "messages": USER, "temperature": 0, "max_tokens": 6}
COMPLETION = {"model": "tiny", "prompt": "The trench is", "temperature": 0, "max_tokens": 6}
MESSAGE = {"model": "tiny", "messages": USER, "temperature": 0, "max_tokens": 6}
COUNT = {"model": "tiny", "messages": USER}
HOT = {"temperature": 1.5, "seed": 1}


@dataclass
class Needed:
    """Has to be there; another value gives another answer, or is refused."""

    other: object


@dataclass
class Changes:
    """Changes the answer, beside other fields where it needs some."""

    value: object
    beside: dict = field(default_factory=dict)


@dataclass
class Same:
    """Asks for what is done anyway, or for nothing that the answer shows; what it cannot be is refused."""

    value: object
    wrong: object
    beside: dict = field(default_factory=dict)


@dataclass
class Logged:
    """Stands in the log."""

    value: object
    text: str


@dataclass
class Refused:
    """Is refused, unless it asks for what is done anyway."""

    value: object
    same: tuple = ()
    code: str = "unsupported_parameter"


@dataclass
class Header:
    """Is a header, which is refused."""

    name: str


@dataclass
class Table:
    """Of the fields of `kind`. `put` makes a request of an object of it, of which `base` is one."""

    kind: type
    path: str
    base: dict
    put: typing.Callable
    fields: dict
    at: str = ""

    def name(self):
        return f"{self.kind.__module__.split('.')[0]}.{self.kind.__name__}"


def whole(object):
    return object


CHAT_FIELDS = {
    "messages": Needed([{"role": "user", "content": "And the ridge?"}]),
    "model": Needed("huge"),
    "audio": Refused({"format": "wav", "voice": "ash"}),
    "frequency_penalty": Changes(2.0, {"max_tokens": 60}),
    "function_call": Refused("auto"),
    "functions": Refused([{"name": "tide"}]),
    "logit_bias": Changes({"42": 100}),
    "logprobs": Changes(True),
    "max_completion_tokens": Changes(3, {"max_tokens": None}),
    "max_tokens": Changes(3),
    "metadata": Logged({"dive": "7"}, r'metadata="{\"dive\":\"7\"}"'),
    "modalities": Refused(["text", "audio"], (["text"],)),
    "moderation": Refused({"model": "omni"}),
    "n": Changes(2),
    "parallel_tool_calls": Changes(
        False,
        {"tools": [FUNCTION], "tool_choice": "required", "logit_bias": {"502": -100}, "max_tokens": 400, **HOT},
    ),
    "prediction": Refused({"type": "content", "content": "x"}),
    "presence_penalty": Changes(2.0, {"max_tokens": 60}),
    "prompt_cache_key": Same("dives", 7),
    "prompt_cache_options": Refused({"ttl": "30m"}, ({"mode": "implicit"}, {})),
    "prompt_cache_retention": Refused("24h", ("in_memory",)),
    "reasoning_effort": Changes("max"),
    "response_format": Changes({"type": "json_object"}),
    "safety_identifier": Logged("u-71", 'user="u-71"'),
    "seed": Changes(9, {"temperature": 1.5}),
    "service_tier": Refused("fast", ("auto", "default")),
    "stop": Changes(["e", "i", "a", " ", "o", "n"], {"max_tokens": 60}),
    "store": Refused(True, (False,)),
    "stream": Changes(True),
    "stream_options": Changes({"include_usage": True}, {"stream": True}),
    "temperature": Changes(1.9, {"seed": 1}),
    "tool_choice": Changes("required", {"tools": [FUNCTION], "max_tokens": 300}),
    "tools": Changes([FUNCTION]),
    "top_logprobs": Changes(3, {"logprobs": True}),
    "top_p": Changes(0.01, HOT),
    "user": Logged("u-72", 'user="u-72"'),
    "verbosity": Refused("low", ("medium",)),
    "web_search_options": Refused({}),
}

COMPLETION_FIELDS = {
    "model": Needed("huge"),
    "prompt": Needed("The ridge is"),
    "best_of": Changes(4, HOT),
    "echo": Changes(True),
    "frequency_penalty": CHAT_FIELDS["frequency_penalty"],
    "logit_bias": CHAT_FIELDS["logit_bias"],
    "logprobs": Changes(2),
    "max_tokens": Changes(3),
    "n": Changes(2),
    "presence_penalty": CHAT_FIELDS["presence_penalty"],
    "seed": CHAT_FIELDS["seed"],
    "stop": CHAT_FIELDS["stop"],
    "stream": Changes(True),
    "stream_options": CHAT_FIELDS["stream_options"],
    "suffix": Changes("deep"),
    "temperature": CHAT_FIELDS["temperature"],
    "top_p": CHAT_FIELDS["top_p"],
    "user": Logged("u-73", 'user="u-73"'),
}

COUNT_FIELDS = {
    "messages": Needed([{"role": "user", "content": "And where is the ridge?"}]),
    "model": Needed("huge"),
    "cache_control": Same({"type": "ephemeral"}, {"type": "eternal"}),
    "output_config": Same({"format": {"type": "json_schema", "schema": PORT}}, {"effort": "none"}),
    "speed": Refused("fast", ("standard",)),
    "system": Changes("Be brief."),
    "thinking": Same({"type": "enabled", "budget_tokens": 10}, {"type": "between_tools"}),
    "tool_choice": Changes({"type": "none"}, {"tools": [TOOL]}),
    "tools": Changes([TOOL]),
    "user_profile_id": Header("anthropic-user-profile-id"),
    "workspace_id": Header("anthropic-workspace-id"),
}

MESSAGE_FIELDS = {
    **COUNT_FIELDS,
    "max_tokens": Needed(3),
    "container": Refused("c"),
    "diagnostics": Refused({"previous_message_id": "msg_1"}),
    "inference_geo": Refused("eu"),
    "metadata": Logged({"user_id": "u-74"}, 'user="u-74"'),
    "output_config": Changes({"format": {"type": "json_schema", "schema": PORT}}),
    "service_tier": Refused("priority", ("auto", "standard_only")),
    "stop_sequences": Changes(["e", "i", "a", " ", "o", "n"], {"max_tokens": 60}),
    "stream": Changes(True),
    "thinking": Changes({"type": "enabled", "budget_tokens": 2}),
}

BETA_FIELDS = {
    **MESSAGE_FIELDS,
    # Names of features that a client knows of; what they add is refused where it is asked for.
    "betas": None,
    "billing_policy": Refused({"type": "x"}),
    "compaction": Refused({"type": "x"}),
    # What would never begin, or has nothing to do, is none of a refusal.
    "context_management": Same(
        {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}, {"type": "clear_tool_uses_20250919"}]},
        {"edits": [{"type": "clear_tool_uses_20250919", "trigger": {"type": "input_tokens", "value": 1000}}]},
    ),
    "fallback_credit_token": Refused("x"),
    "fallbacks": Refused([{"model": "x"}]),
    "mcp_servers": Refused([{"type": "url", "url": "x", "name": "x"}], ([],)),
    "thread": Refused(True, (False,)),
}


def of_messages(before=(), after=(), base=CHAT):
    return lambda object: {**base, "messages": [*before, object, *after]}


def of_block(role="user", before=(), after=(), base=MESSAGE):
    return lambda object: {**base, "messages": [*before, {"role": role, "content": [object]}, *after]}


ASKED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
USED = {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "tide", "input": {}}]}
RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "3.1"}]}
SPOKEN = {
    "content": Needed("Something else."),
    "role": Needed("king"),
    # Given to the template, and those of this family print nothing of it.
    "name": Same("ann", 7),
}

TABLES = [
    Table(chat_create_params.CompletionCreateParamsStreaming, "/v1/chat/completions", CHAT, whole, CHAT_FIELDS),
    Table(completion_create_params.CompletionCreateParamsStreaming, "/v1/completions", COMPLETION, whole, COMPLETION_FIELDS),
    Table(message_create_params.MessageCreateParamsStreaming, "/v1/messages", MESSAGE, whole, MESSAGE_FIELDS),
    Table(beta_create_params.MessageCreateParamsStreaming, "/v1/messages?beta=true", MESSAGE, whole, BETA_FIELDS),
    Table(message_count_tokens_params.MessageCountTokensParams, "/v1/messages/count_tokens", COUNT, whole, COUNT_FIELDS),
    # What stands within them.
    Table(
        oc.ChatCompletionStreamOptionsParam, "/v1/chat/completions", {}, lambda it: {**CHAT, "stream": True, "stream_options": it},
        {"include_usage": Changes(True), "include_obfuscation": Refused(True, (False,))}, "stream_options.",
    ),
    Table(
        oc.ChatCompletionSystemMessageParam, "/v1/chat/completions", {"role": "system", "content": "Be brief."},
        of_messages(after=USER), SPOKEN, "messages[0].",
    ),
    Table(
        oc.ChatCompletionDeveloperMessageParam, "/v1/chat/completions", {"role": "developer", "content": "Be brief."},
        of_messages(after=USER), SPOKEN, "messages[0].",
    ),
    Table(oc.ChatCompletionUserMessageParam, "/v1/chat/completions", USER[0], of_messages(), SPOKEN, "messages[0]."),
    Table(
        oc.ChatCompletionAssistantMessageParam, "/v1/chat/completions", {"role": "assistant", "content": "Deep."},
        of_messages(USER, USER),
        {
            **SPOKEN,
            # An empty turn is one.
            "content": Changes("Very deep."),
            "audio": Refused({"id": "x"}),
            "function_call": Refused({"name": "x", "arguments": ""}),
            "refusal": Refused("No."),
            "tool_calls": Changes([CALL]),
        },
        "messages[1].",
    ),
    Table(
        oc.ChatCompletionToolMessageParam, "/v1/chat/completions", {"role": "tool", "content": "3.1", "tool_call_id": "c"},
        of_messages([*USER, ASKED]), {**{k: SPOKEN[k] for k in ["content", "role"]}, "tool_call_id": Needed(7)}, "messages[2].",
    ),
    Table(
        oc.ChatCompletionContentPartTextParam, "/v1/chat/completions", {"type": "text", "text": "How deep?"}, of_block(base=CHAT),
        {
            "text": Needed("How high?"),
            "type": Needed("image_url"),
            "prompt_cache_breakpoint": Same({"mode": "explicit"}, {"mode": "explicit", "ttl": "12h"}),
        },
        "messages[0].content[0].",
    ),
    Table(
        oc.ChatCompletionFunctionToolParam, "/v1/chat/completions", FUNCTION, lambda it: {**CHAT, "tools": [it]},
        {"function": Needed({"name": "ebb"}), "type": Needed("custom")}, "tools[0].",
    ),
    Table(
        op.FunctionDefinition, "/v1/chat/completions", FUNCTION["function"],
        lambda it: {**CHAT, "tools": [{"type": "function", "function": it}]},
        {
            "name": Needed("ebb"),
            "description": Changes("Tells the tide."),
            "parameters": Changes({"type": "object"}),
            # A random model calls nothing unless it must, and then it holds to the schema anyway.
            "strict": Same(True, "yes"),
        },
        "tools[0].function.",
    ),
    Table(
        response_format_json_schema.JSONSchema, "/v1/chat/completions", {"name": "port", "schema": PORT},
        lambda it: {**CHAT, "max_tokens": 60, "response_format": {"type": "json_schema", "json_schema": it}},
        {
            "name": Needed("not a name"),
            "description": Same("A port.", 7),
            "schema": Needed({"type": "integer", "minimum": 3, "maximum": 3}),
            "strict": Same(True, False),
        },
        "response_format.json_schema.",
    ),
    Table(
        oc.ChatCompletionNamedToolChoiceParam, "/v1/chat/completions", {"type": "function", "function": {"name": "tide"}},
        lambda it: {**CHAT, "max_tokens": 300, "tools": [FUNCTION], "tool_choice": it},
        {"function": Needed({"name": "ebb"}), "type": Needed("custom")}, "tool_choice.",
    ),
    Table(
        at.TextBlockParam, "/v1/messages", {"type": "text", "text": "How deep?"}, of_block(),
        {
            "text": Needed("How high?"),
            "type": Needed("image"),
            "cache_control": Same({"type": "ephemeral"}, {"type": "x"}),
            "citations": Refused([{"type": "char_location"}], ([],)),
        },
        "messages[0].content[0].",
    ),
    Table(
        at.ToolUseBlockParam, "/v1/messages", USED["content"][0], of_block("assistant", USER, [RESULT]),
        {
            # The formats of this family tell calls from each other by their order.
            "id": Needed(7),
            "input": Changes({"port": "Emden"}),
            "name": Needed("ebb"),
            "type": Needed("server_tool_use"),
            "cache_control": Same({"type": "ephemeral"}, {"type": "x"}),
            "caller": Refused({"type": "code_execution_20250825", "tool_id": "x"}, ({"type": "direct"},)),
            "toolset_name": Refused("x"),
        },
        "messages[1].content[0].",
    ),
    Table(
        at.ToolResultBlockParam, "/v1/messages", RESULT["content"][0], of_block("user", [*USER, USED]),
        {
            "tool_use_id": Needed(7),
            "type": Needed("web_search_tool_result"),
            "cache_control": Same({"type": "ephemeral"}, {"type": "x"}),
            "content": Changes([{"type": "text", "text": "4.2"}]),
            "is_error": Changes(True),
            "toolset_name": Refused("x"),
        },
        "messages[2].content[0].",
    ),
    Table(
        at.ThinkingBlockParam, "/v1/messages", {"type": "thinking", "thinking": "Hm.", "signature": ""},
        of_block("assistant", USER, USER),
        # Templates of this family leave earlier reasoning out.
        {"signature": Same("x", 7), "thinking": Needed(7), "type": Needed("redacted_thinking")},
        "messages[1].content[0].",
    ),
    Table(
        at.ToolParam, "/v1/messages", TOOL, lambda it: {**MESSAGE, "tools": [it]},
        {
            "name": Needed("ebb"),
            "input_schema": Changes({"type": "object"}),
            "allowed_callers": Refused(["code_execution_20250825"], (["direct"],)),
            "cache_control": Same({"type": "ephemeral"}, {"type": "x"}),
            "defer_loading": Refused(True, (False,)),
            "description": Changes("Tells the tide."),
            # Arguments come when they are whole.
            "eager_input_streaming": Same(True, "yes"),
            "input_examples": Changes([{"port": "Emden"}]),
            "strict": Same(True, "yes"),
            "type": Same("custom", "bash_20250124"),
        },
        "tools[0].",
    ),
    Table(
        at.CacheControlEphemeralParam, "/v1/messages", {"type": "ephemeral"}, lambda it: {**MESSAGE, "cache_control": it},
        {"type": Needed("eternal"), "ttl": Same("1h", "2h")}, "cache_control.",
    ),
    Table(
        at.ThinkingConfigEnabledParam, "/v1/messages", {"type": "enabled", "budget_tokens": 3},
        lambda it: {**MESSAGE, "thinking": it},
        {
            "budget_tokens": Changes(2),
            "type": Needed("between_tools"),
            "display": Changes("omitted"),
        },
        "thinking.",
    ),
    Table(
        at.OutputConfigParam, "/v1/messages", {}, lambda it: {**MESSAGE, "max_tokens": 60, "output_config": it},
        {"effort": Changes("low"), "format": Changes({"type": "json_schema", "schema": PORT})}, "output_config.",
    ),
    Table(
        at.JSONOutputFormatParam, "/v1/messages", {"type": "json_schema", "schema": PORT},
        lambda it: {**MESSAGE, "max_tokens": 60, "output_config": {"format": it}},
        {"schema": Needed({"type": "integer", "minimum": 3, "maximum": 3}), "type": Needed("xml")}, "output_config.format.",
    ),
    Table(
        at.MetadataParam, "/v1/messages", {}, lambda it: {**MESSAGE, "metadata": it},
        {"user_id": Logged("u-75", 'user="u-75"')}, "metadata.",
    ),
    Table(
        at.ToolChoiceToolParam, "/v1/messages", {"type": "tool", "name": "tide"},
        lambda it: {**MESSAGE, "max_tokens": 300, "tools": [TOOL], "tool_choice": it},
        {"name": Needed("ebb"), "type": Needed("some"), "disable_parallel_tool_use": Changes(True)}, "tool_choice.",
    ),
]
CASES = [pytest.param(table, name, id=f"{table.name()}.{name}") for table in TABLES for name in table.fields]


@pytest.mark.parametrize("table", TABLES, ids=Table.name)
def test_every_field_is_known(table):
    published = set(typing.get_type_hints(table.kind))
    assert set(table.fields) == published, "the table has to say what becomes of a field"


def ask(server, table, object, **options):
    reply = post(server, table.path, table.put(object), **options)
    assert reply.status < 500, reply.body
    return reply


def content(reply):
    """An answer without what differs between two that are alike."""
    assert reply.status == 200, reply.body
    text = reply.body.decode()
    if reply.headers["content-type"] != "application/json":
        kinds = [event if event == "[DONE]" else stripped(event) for event in reply.events()]
        return kinds
    return stripped(json.loads(text))


def stripped(value):
    """Without names, times, and what the cache of prompts happened to hold."""
    if isinstance(value, dict):
        cached = value.get("cache_read_input_tokens", 0)
        changing = {"id", "created", "cached_tokens", "cache_read_input_tokens"}
        kept = {key: stripped(inner) for key, inner in value.items() if key not in changing}
        if "input_tokens" in kept:
            kept["input_tokens"] += cached
        return kept
    return [stripped(inner) for inner in value] if isinstance(value, list) else value


def refusal(reply, table, name):
    assert reply.status in (400, 404), reply.body
    error = reply.error()
    assert error["message"] and error["code"] and error["type"]
    path = table.at + name
    param = error.get("param")
    # Anthropic's errors have no field for it, so the message says it.
    if "param" in error:
        assert param is None or param.startswith(table.at.rstrip(".")) or param == name, error
    else:
        assert path in error["message"] or table.at.rstrip(".") in error["message"] or name in error["message"], error
    return error


@pytest.mark.parametrize("table, name", CASES)
def test_a_field_is_honoured_or_refused(server, table, name):
    case = table.fields[name]
    base = table.base
    match case:
        case Needed(other):
            error = refusal(ask(server, table, {k: v for k, v in base.items() if k != name}), table, name) if name != "model" else None
            assert error is None or error["code"] in ("missing_field", "invalid_type", "unsupported_content")
            plain, changed = content(ask(server, table, base)), ask(server, table, {**base, name: other})
            if changed.status == 200:
                assert content(changed) != plain
            else:
                refusal(changed, table, name)
        case Changes(value, beside):
            plain = {k: v for k, v in {**base, **beside}.items() if k != name or k in base}
            assert content(ask(server, table, {**plain, name: value})) != content(ask(server, table, plain))
        case Same(value, wrong, beside):
            plain = {**base, **beside}
            assert content(ask(server, table, {**plain, name: value})) == content(ask(server, table, plain))
            refusal(ask(server, table, {**plain, name: wrong}), table, name)
        case Logged(value, text):
            content(ask(server, table, {**base, name: value}))
            end = time.monotonic() + 5
            while not any(text in line for line in server.log):
                assert time.monotonic() < end, server.log[-1]
                time.sleep(0.01)
        case Refused(value, same, code):
            error = refusal(ask(server, table, {**base, name: value}), table, name)
            assert error["code"] == code
            plain = content(ask(server, table, base))
            for value in same:
                assert content(ask(server, table, {**base, name: value})) == plain
        case Header(header):
            reply = ask(server, table, base, headers={header: "x"})
            assert reply.status == 400 and reply.error()["code"] == "unsupported_parameter"
        case None:
            assert content(ask(server, table, base, headers={"anthropic-beta": "x"})) == content(ask(server, table, base))


DEEP = {"a": {"b": [[{"c": 1}]]}}
JUNK = [None, True, 0, -1, 1e308, 2**64, 3.5, "", "x", "\u0000\ud83d", [], [[]], [None], ["x"] * 200, {}, {"": None}, DEEP, {"type": "x"}]


@pytest.mark.parametrize("table", TABLES, ids=Table.name)
def test_nonsense_is_refused(server, table):
    """Whatever a field holds, the answer is one or a refusal with a code, and the server goes on."""
    for name in [*table.fields, "role", "type"]:
        for junk in JUNK:
            body = table.put({**table.base, name: junk})
            if "max_tokens" in body and (table.at or name != "max_tokens"):
                body["max_tokens"] = 1
            reply = post(server, table.path, body)
            where = f"{table.name()}.{name} = {junk!r}"
            assert reply.status in (200, 400, 404), (where, reply.body)
            if reply.status != 200:
                assert reply.error()["code"] and reply.error()["message"], where
    assert get(server, "/livez").status == 200


@pytest.mark.parametrize("table", TABLES, ids=Table.name)
def test_unknown_fields_are_refused(server, table):
    error = refusal(ask(server, table, {**table.base, "xyzzy": 1}), table, "xyzzy")
    assert error["code"] == "unknown_parameter" and "did you mean" not in error["message"]
    longest = max(table.fields, key=len)
    if not isinstance(table.fields[longest], Header):
        misspelt = longest[0] + longest[2:]
        error = refusal(ask(server, table, {**table.base, misspelt: 1}), table, misspelt)
        assert error["code"] == "unknown_parameter" and f"did you mean {longest}?" in error["message"]
    assert ask(server, table, {**table.base, "xyzzy": None}).status == 200, "null is as good as absent"


def kinds(union, name="type"):
    """The values of `type` in a union of dictionaries."""
    found = set()
    for member in typing.get_args(union):
        if hasattr(member, "__total__"):
            hint = typing.get_type_hints(member)[name]
            for part in [hint, *typing.get_args(hint)]:
                found |= {value for value in typing.get_args(part) if isinstance(value, str)}
    return found


UNIONS = {
    "openai.messages": (
        chat_completion_message_param.ChatCompletionMessageParam, "role", {"developer", "system", "user", "assistant", "tool"},
        oc.ChatCompletionUserMessageParam,
    ),
    "openai.parts": (
        chat_completion_content_part_param.ChatCompletionContentPartParam, "type", {"text"}, oc.ChatCompletionContentPartTextParam,
    ),
    "openai.tools": (
        chat_completion_tool_union_param.ChatCompletionToolUnionParam, "type", {"function"}, oc.ChatCompletionFunctionToolParam,
    ),
    "openai.tool_choice": (
        chat_completion_tool_choice_option_param.ChatCompletionToolChoiceOptionParam, "type", {"function"},
        oc.ChatCompletionNamedToolChoiceParam,
    ),
    "anthropic.blocks": (
        content_block_param.ContentBlockParam, "type", {"text", "tool_use", "tool_result", "thinking"}, at.TextBlockParam,
    ),
    "anthropic.tools": (tool_union_param.ToolUnionParam, "type", {"custom"}, at.ToolParam),
    "anthropic.thinking": (
        thinking_config_param.ThinkingConfigParam, "type", {"enabled", "disabled", "adaptive"}, at.ThinkingConfigEnabledParam,
    ),
    "anthropic.tool_choice": (tool_choice_param.ToolChoiceParam, "type", {"auto", "any", "tool", "none"}, at.ToolChoiceToolParam),
}


@pytest.mark.parametrize("union, name, ours, kind", UNIONS.values(), ids=UNIONS)
def test_kinds_that_are_not_ours_are_refused(server, union, name, ours, kind):
    (table,) = [table for table in TABLES if table.kind is kind]
    published = kinds(union, name)
    assert ours <= published
    for kind in published - ours:
        error = refusal(ask(server, table, {**table.base, name: kind}), table, name)
        assert error["code"] in ("unsupported_content", "unsupported_parameter", "invalid_value"), kind
