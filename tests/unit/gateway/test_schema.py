"""Which requests are refused, with which words; and what the accepted ones become."""

import json
from typing import Any

import pytest

from services.gateway.api.body import parse_object
from services.gateway.api.schema import parse_create, parse_event
from services.gateway.errors import ApiError
from shared.records import Message, ModerationWish, ResponseSpec, Sampling

BASE = {"model": "m", "input": "Hi"}
CONVERSATION = "conv_01a1fdc4690670018e8a2c8c65ddcda7"


def user(**part: Any) -> dict[str, Any]:
    return {"role": "user", "content": [part]}


def answer(item_id: str) -> dict[str, Any]:
    """Our own output, as an SDK sends it back."""
    return {
        "id": item_id,
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "Paris.", "annotations": [], "logprobs": []}],
        "phase": None,
    }


REFUSED: list[tuple[dict[str, Any], str, str | None, str]] = [
    ({"input": None}, "invalid_type", "input", "expected a string or an array, but got null"),
    ({"input": 5}, "invalid_type", "input", "got a number"),
    ({"input": []}, "empty_input", "input", "must hold some text"),
    ({"input": " \n"}, "empty_input", "input", "must hold some text"),
    ({"input": ["x"]}, "invalid_type", "input[0]", "expected an object"),
    ({"input": [{"role": "user"}]}, "missing_required_parameter", "input[0].content", "Missing required"),
    ({"input": [{"role": "bot", "content": "x"}]}, "invalid_value", "input[0].role", "'bot'"),
    ({"input": [{"type": "speech"}]}, "invalid_value", "input[0].type", "Supported values are: 'message'"),
    ({"input": [{"type": "function_call", "name": "f"}]}, "unsupported_value", "input[0].type", "call no tools"),
    ({"input": [{"type": "function_call_output"}]}, "unsupported_value", "input[0].type", "call no tools"),
    ({"input": [{"type": "reasoning", "id": "rs_1"}]}, "unsupported_value", "input[0].type", "do not reason"),
    ({"input": [{"type": "item_reference"}]}, "missing_required_parameter", "input[0].id", "Missing required"),
    ({"input": [{"type": "item_reference", "id": 5}]}, "invalid_type", "input[0].id", "expected a string"),
    ({"input": [{"id": "msg_1"}]}, "missing_required_parameter", "input[0].role", "Missing required"),
    ({"input": [user(text="no type")]}, "missing_required_parameter", "input[0].content[0].type", "Missing required"),
    ({"input": [user(type="input_text")]}, "missing_required_parameter", "input[0].content[0].text", "Missing"),
    ({"input": [user(type="video")]}, "invalid_value", "input[0].content[0].type", "'input_text' or 'output_text'"),
    (
        {"input": [user(type="input_image", image_url="x")]},
        "unsupported_value",
        "input[0].content[0].type",
        "'input_image' is not supported by this server: its models read and write text only",
    ),
    ({"input": [user(type="input_file")]}, "unsupported_value", "input[0].content[0].type", "text only"),
    ({"input": [user(type="input_audio")]}, "unsupported_value", "input[0].content[0].type", "text only"),
    ({"input": [user(type="output_text", text="x")]}, "invalid_value", "input[0].content[0].type", "'assistant'"),
    ({"input": [user(type="refusal", refusal="x")]}, "invalid_value", "input[0].content[0].type", "'assistant'"),
    (
        {"input": [user(type="input_text", text="x", prompt_cache_breakpoint={})]},
        "unknown_parameter",
        "input[0].content[0].prompt_cache_breakpoint",
        "Unknown parameter",
    ),
    ({"input": [user(type="input_text", text=5)]}, "invalid_type", "input[0].content[0].text", "expected a string"),
    ({"input": [{"role": "user", "content": ["x"]}]}, "invalid_type", "input[0].content[0]", "expected an object"),
    ({"input": [{"role": "user", "content": 1}]}, "invalid_type", "input[0].content", "a string or an array"),
    ({"input": [answer("m"), answer("m")]}, "invalid_value", "input[1].id", "Duplicate item found with id 'm'"),
    ({"input": [answer("")]}, "below_min_length", "input[0].id", "expected at least 1"),
    ({"input": [{**answer("m"), "status": "done"}]}, "invalid_value", "input[0].status", "'in_progress'"),
    ({"model": None}, "invalid_type", "model", "expected a string"),
    ({"temperature": 2.5}, "above_max_value", "temperature", "expected a value <= 2, but got 2.5"),
    ({"temperature": -1}, "below_min_value", "temperature", "expected a value >= 0, but got -1"),
    ({"temperature": "1"}, "invalid_type", "temperature", "expected a number, but got a string"),
    ({"temperature": True}, "invalid_type", "temperature", "got a boolean"),
    ({"top_p": -0.1}, "below_min_value", "top_p", "expected a value >= 0, but got -0.1"),
    ({"max_output_tokens": 0}, "below_min_value", "max_output_tokens", "expected a value >= 1, but got 0"),
    ({"max_output_tokens": 1.5}, "invalid_type", "max_output_tokens", "expected an integer"),
    ({"metadata": {str(n): "" for n in range(17)}}, "above_max_length", "metadata", "17 entries, at most 16"),
    ({"metadata": {"k": "v" * 513}}, "above_max_length", "metadata.k", "513 characters, at most 512"),
    ({"metadata": {"k": 5}}, "invalid_type", "metadata.k", "expected a string"),
    ({"flavour": 1}, "unknown_parameter", "flavour", "Unknown parameter: 'flavour'"),
    ({"metadata": {"k" * 65: ""}}, "above_max_length", "metadata." + "k" * 65, "65 characters, at most 64"),
    ({"metadata": []}, "invalid_type", "metadata", "expected an object"),
    ({"presence_penalty": 2.1}, "above_max_value", "presence_penalty", "<= 2, but got 2.1"),
    ({"frequency_penalty": -3}, "below_min_value", "frequency_penalty", ">= -2, but got -3"),
    ({"frequency_penalty": "1"}, "invalid_type", "frequency_penalty", "expected a number"),
    ({"top_logprobs": 21}, "above_max_value", "top_logprobs", "<= 20"),
    ({"top_logprobs": -1}, "below_min_value", "top_logprobs", ">= 0"),
    ({"top_logprobs": 1.5}, "invalid_type", "top_logprobs", "expected an integer"),
    ({"include": ["reasoning.encrypted_content"]}, "unsupported_value", "include[0]", "do not reason"),
    ({"include": ["everything"]}, "invalid_value", "include[0]", "'message.output_text.logprobs'"),
    ({"include": "all"}, "invalid_type", "include", "expected an array"),
    ({"stop": ""}, "below_min_length", "stop", "0 characters, expected at least 1"),
    ({"stop": ["a", ""]}, "below_min_length", "stop[1]", "expected at least 1"),
    ({"stop": ["a"] * 5}, "above_max_length", "stop", "5 entries, at most 4"),
    ({"stop": "x" * 257}, "above_max_length", "stop", "257 characters, at most 256"),
    ({"stop": 5}, "invalid_type", "stop", "a string or an array"),
    ({"stop": [5]}, "invalid_type", "stop[0]", "expected a string"),
    ({"seed": 0.5}, "invalid_type", "seed", "expected an integer"),
    ({"seed": 2**63}, "above_max_value", "seed", "but got 9223372036854775808"),
    ({"top_k": 0}, "below_min_value", "top_k", ">= 1"),
    ({"max_tool_calls": -1}, "below_min_value", "max_tool_calls", ">= 0"),
    ({"text": {"format": {"type": "json_object"}}}, "unsupported_value", "text.format.type", "plain text"),
    (
        {"text": {"format": {"type": "json_schema", "name": "n", "schema": {}}}},
        "unsupported_value",
        "text.format.type",
        "'json_schema' is not supported by this server: answers are plain text",
    ),
    ({"text": {"format": {"type": "xml"}}}, "invalid_value", "text.format.type", "Supported values are: 'text'"),
    ({"text": {"verbosity": "huge"}}, "invalid_value", "text.verbosity", "'low', 'medium' or 'high'"),
    ({"tools": [{"type": "function"}]}, "unsupported_parameter", "tools", "its models call no tools"),
    ({"tool_choice": "required"}, "invalid_value", "tool_choice", "'auto' or 'none'"),
    ({"tool_choice": {"type": "function", "name": "f"}}, "invalid_value", "tool_choice", "'auto' or 'none'"),
    ({"reasoning": {"effort": "high"}}, "unsupported_parameter", "reasoning", "do not reason"),
    ({"conversation": 5}, "invalid_type", "conversation", "a string or an object"),
    ({"conversation": []}, "invalid_type", "conversation", "a string or an object"),
    ({"conversation": {}}, "missing_required_parameter", "conversation.id", "Missing"),
    ({"conversation": {"id": 5}}, "invalid_type", "conversation.id", "a string"),
    ({"conversation": {"id": CONVERSATION, "x": 1}}, "unknown_parameter", "conversation.x", "Unknown"),
    ({"conversation": "conv_" + "1" * 300}, "above_max_length", "conversation", "305 characters"),
    (
        {"conversation": CONVERSATION, "previous_response_id": "resp_1"},
        "mutually_exclusive_parameters",
        None,
        "'previous_response_id' and 'conversation'",
    ),
    ({"moderation": {}}, "missing_required_parameter", "moderation.model", "Missing"),
    ({"moderation": {"model": "m", "mode": "block"}}, "unknown_parameter", "moderation.mode", "Unknown"),
    (
        {"moderation": {"model": "m", "policy": {"input": {"mode": "ask"}}}},
        "invalid_value",
        "moderation.policy.input.mode",
        "'score' or 'block'",
    ),
    (
        {"moderation": {"model": "m", "policy": {"output": {}}}},
        "missing_required_parameter",
        "moderation.policy.output.mode",
        "Missing",
    ),
    ({"prompt": {"id": "pmpt_1"}}, "unsupported_parameter", "prompt", "as 'input'"),
    ({"image": {"context_compression": "auto"}}, "unsupported_parameter", "image", "text only"),
    ({"context_management": [{"type": "compaction"}]}, "unsupported_parameter", "context_management", "not supported"),
    ({"access_programs": {"cyber": "standard"}}, "unsupported_parameter", "access_programs", "not supported"),
    ({"prompt_cache_options": {"mode": "explicit"}}, "unsupported_parameter", "prompt_cache_options", "not supported"),
    ({"prompt_cache_retention": "1h"}, "invalid_value", "prompt_cache_retention", "'in_memory' or '24h'"),
    ({"stream_options": {"include_obfuscation": True}}, "invalid_value", "stream_options.include_obfuscation", "False"),
    ({"stream_options": {"include_usage": True}}, "unknown_parameter", "stream_options.include_usage", "Unknown"),
    ({"generate": False}, "unsupported_parameter", "generate", "for WebSockets only"),
    ({"service_tier": "gold"}, "invalid_value", "service_tier", "'priority'"),
    ({"truncation": "middle"}, "invalid_value", "truncation", "'auto' or 'disabled'"),
    ({"previous_response_id": 5}, "invalid_type", "previous_response_id", "expected a string"),
    ({"user": "u" * 257}, "above_max_length", "user", "257 characters"),
    ({"background": True, "store": False}, "invalid_value", "background", "requires 'store'"),
    ({"stream": "yes"}, "invalid_type", "stream", "expected a boolean"),
]


@pytest.mark.parametrize(("fields", "code", "param", "words"), REFUSED, ids=lambda value: str(value)[:40])
def test_refused(fields: dict[str, Any], code: str, param: str, words: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_create({**BASE, **fields})
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, param)
    assert words in caught.value.message
    assert set(caught.value.body()) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "name", ["", "conv_1", "resp_" + "0" * 32, "conv_" + "A" * 32, CONVERSATION + "0", "conv_\u0661"]
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_what_cannot_be_a_conversation_is_not_found(name: str, wrapped: bool) -> None:
    with pytest.raises(ApiError) as caught:
        parse_create({**BASE, "conversation": {"id": name} if wrapped else name})
    assert (caught.value.status, caught.value.code) == (404, "conversation_not_found")
    assert caught.value.param == "conversation"


@pytest.mark.parametrize("name", ["model", "input"])
def test_required(name: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_create({key: value for key, value in BASE.items() if key != name})
    assert (caught.value.code, caught.value.param) == ("missing_required_parameter", name)


NOTHING: dict[str, Any] = {
    "access_programs": None,
    "context_management": [],
    "conversation": None,
    "generate": True,
    "image": {},
    "include": [],
    "max_tool_calls": None,
    "metadata": None,
    "moderation": None,
    "parallel_tool_calls": True,
    "prompt": None,
    "prompt_cache_options": {"mode": None},
    "prompt_cache_retention": None,
    "reasoning": {"effort": None, "summary": None},
    "stop": None,
    "stream_options": {"include_obfuscation": False},
    "text": {"format": {"type": "text"}, "verbosity": None},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
}


@pytest.mark.parametrize("name", NOTHING)
def test_what_asks_for_nothing_is_accepted(name: str) -> None:
    assert parse_create({**BASE, name: NOTHING[name]}).spec() == parse_create(BASE).spec()


WISH = ModerationWish(model="omni-moderation-latest", input="score", output="score")
CARRIED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"instructions": "Be brief."}, {"instructions": "Be brief."}),
    ({"metadata": {"k": "v"}}, {"metadata": {"k": "v"}}),
    ({"store": False}, {"store": False}),
    ({"background": True}, {"background": True}),
    ({"truncation": "auto"}, {"truncation": "auto"}),
    ({"previous_response_id": "resp_1"}, {"previous_response_id": "resp_1"}),
    ({"conversation": CONVERSATION}, {"conversation": CONVERSATION}),
    ({"conversation": {"id": CONVERSATION}, "previous_response_id": None}, {"conversation": CONVERSATION}),
    ({"service_tier": "flex"}, {"service_tier": "flex"}),
    ({"user": "u", "safety_identifier": "s"}, {"user": "u", "safety_identifier": "s"}),
    ({"prompt_cache_key": "k"}, {"prompt_cache_key": "k"}),
    ({"prompt_cache_retention": "24h"}, {"prompt_cache_retention": "24h"}),
    ({"tool_choice": "none", "parallel_tool_calls": False}, {"tool_choice": "none", "parallel_tool_calls": False}),
    ({"max_tool_calls": 3}, {"max_tool_calls": 3}),
    ({"text": {"verbosity": "low"}}, {"verbosity": "low"}),
    ({"moderation": {"model": "omni-moderation-latest"}}, {"moderation": WISH}),
    ({"moderation": {"model": "omni-moderation-latest", "policy": {"output": None}}}, {"moderation": WISH}),
    (
        {"moderation": {"model": "text-moderation-stable", "policy": {"input": {"mode": "block"}}}},
        {"moderation": ModerationWish(model="text-moderation-stable", input="block")},
    ),
    ({"top_logprobs": 4}, {"top_logprobs": 4, "sampling": Sampling(logprobs=4)}),
    ({"include": ["message.output_text.logprobs"]}, {"sampling": Sampling(logprobs=0)}),
]


@pytest.mark.parametrize(("fields", "changes"), CARRIED, ids=lambda value: str(value)[:40])
def test_what_is_asked_for_stands_in_the_spec(fields: dict[str, Any], changes: dict[str, Any]) -> None:
    plain = {"model": "m", "input": [Message(role="user", parts=["Hi"])], "service_tier": "auto"}
    assert parse_create({**BASE, **fields}).spec() == ResponseSpec(**{**plain, **changes})


SAMPLED: list[tuple[dict[str, Any], Sampling]] = [
    ({"temperature": 0}, Sampling(temperature=0.0)),
    ({"top_p": 0.25}, Sampling(top_p=0.25)),
    ({"top_p": 0}, Sampling(top_p=0.0)),
    ({"top_k": 1}, Sampling(top_k=1)),
    ({"seed": -(2**63)}, Sampling(seed=-(2**63))),
    ({"stop": "END"}, Sampling(stop=["END"])),
    ({"stop": ["a", "b", "c", "d" * 256]}, Sampling(stop=["a", "b", "c", "d" * 256])),
    ({"stop": []}, Sampling()),
    ({"presence_penalty": 2, "frequency_penalty": -2}, Sampling(presence_penalty=2.0, frequency_penalty=-2.0)),
    ({"max_output_tokens": 1}, Sampling(max_output_tokens=1)),
    ({"include": ["message.output_text.logprobs"], "top_logprobs": 20}, Sampling(logprobs=20)),
]


@pytest.mark.parametrize(("fields", "sampling"), SAMPLED, ids=lambda value: str(value)[:40])
def test_how_to_sample_is_carried(fields: dict[str, Any], sampling: Sampling) -> None:
    assert parse_create({**BASE, **fields}).spec().sampling == sampling


def test_only_a_websocket_may_ask_for_no_output() -> None:
    assert parse_event({**BASE, "generate": False}).spec().generate is False
    for nothing in ({}, {"generate": None}, {"generate": True}):
        assert parse_event({**BASE, **nothing}).spec() == parse_create(BASE).spec()
    with pytest.raises(ApiError, match="expected a boolean"):
        parse_event({**BASE, "generate": "no"})


def test_defaults_of_a_spec() -> None:
    spec = parse_create(BASE).spec()
    assert spec.input == [Message(role="user", parts=["Hi"])]
    assert (spec.sampling.temperature, spec.sampling.top_p, spec.sampling.max_output_tokens) == (1.0, 1.0, None)
    assert (spec.store, spec.background, spec.truncation, spec.service_tier) == (True, False, "disabled", "auto")


def test_our_own_output_may_come_back_as_input() -> None:
    refusal = {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}
    parts = [{"type": "input_text", "text": "Why"}, {"type": "input_text", "text": "?"}]
    given = [answer("msg_1"), {"role": "user", "type": None, "content": parts}, refusal]
    assert parse_create({"model": "m", "input": given}).spec().input == [
        Message(role="assistant", parts=["Paris."], id="msg_1"),
        Message(role="user", parts=["Why", "?"]),
        Message(role="assistant", parts=["No."]),
    ]


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant"])
def test_every_role_may_speak_in_a_string_or_in_input_text(role: str) -> None:
    given = [{"role": role, "content": "a"}, {"role": role, "content": [{"type": "input_text", "text": "b"}]}]
    found = parse_create({"model": "m", "input": given}).spec().input
    assert [(message.role, message.text) for message in found] == [(role, "a"), (role, "b")]


BROKEN: list[tuple[bytes, str, str]] = [
    (b"", "invalid_json", "could not be parsed"),
    (b"{", "invalid_json", "could not be parsed"),
    (b"\xff\xfe", "invalid_json", "could not be parsed"),
    (b'{"input": "\xed\xa0\x80"}', "invalid_json", "not valid UTF-8"),
    (b'{"input": "\\ud800 x"}', "invalid_json", "could not be parsed"),
    (b'{"temperature": NaN}', "invalid_json", "could not be parsed"),
    (b'{"temperature": 1e999}', "invalid_json", "out of range"),
    (b'{"a":' * 50_000, "invalid_json", "nested too deeply"),
    (b"[]", "invalid_type", "is an array"),
    (b"null", "invalid_type", "is null"),
    (b"7", "invalid_type", "is a number"),
    (json.dumps({"input": [{"content": "a\0b"}]}).encode(), "invalid_value", "input[0].content"),
    (json.dumps({"a\0": 1}).encode(), "invalid_value", "NUL"),
]


@pytest.mark.parametrize(("data", "code", "words"), BROKEN, ids=range(len(BROKEN)))
def test_broken_bodies(data: bytes, code: str, words: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_object(data)
    assert (caught.value.status, caught.value.code) == (400, code)
    assert words in caught.value.message


def test_an_escaped_backslash_is_no_nul() -> None:
    assert parse_object(rb'{"a": "\\u0000"}') == {"a": r"\u0000"}
