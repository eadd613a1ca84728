"""Which requests are refused, with which words; and what the accepted ones become."""

import json
from typing import Any

import pytest

from services.gateway.api.body import parse_object
from services.gateway.api.errors import ApiError
from services.gateway.api.schema import parse_create
from shared.records import Message

BASE = {"model": "m", "input": "Hi"}

REFUSED: list[tuple[dict[str, Any], str, str, str]] = [
    ({"input": None}, "invalid_type", "input", "expected a string or an array, but got null"),
    ({"input": 5}, "invalid_type", "input", "got a number"),
    ({"input": []}, "empty_input", "input", "must hold some text"),
    ({"input": " \n"}, "empty_input", "input", "must hold some text"),
    ({"input": ["x"]}, "invalid_type", "input[0]", "expected an object"),
    ({"input": [{"role": "user"}]}, "missing_required_parameter", "input[0].content", "Missing required"),
    ({"input": [{"role": "bot", "content": "x"}]}, "invalid_value", "input[0].role", "'bot'"),
    ({"input": [{"type": "function_call", "name": "f"}]}, "invalid_value", "input[0].type", "'function_call'"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        "invalid_value",
        "input[0].content[0].type",
        "'input_image'",
    ),
    ({"model": None}, "invalid_type", "model", "expected a string"),
    ({"temperature": 2.5}, "above_max_value", "temperature", "expected a value <= 2, but got 2.5"),
    ({"temperature": -1}, "below_min_value", "temperature", "expected a value >= 0, but got -1"),
    ({"temperature": "1"}, "invalid_type", "temperature", "expected a number, but got a string"),
    ({"temperature": True}, "invalid_type", "temperature", "got a boolean"),
    ({"top_p": 0}, "below_min_value", "top_p", "expected a value > 0, but got 0"),
    ({"max_output_tokens": 0}, "below_min_value", "max_output_tokens", "expected a value >= 1, but got 0"),
    ({"max_output_tokens": 1.5}, "invalid_type", "max_output_tokens", "expected an integer"),
    ({"metadata": {str(n): "" for n in range(17)}}, "above_max_length", "metadata", "17 entries, at most 16"),
    ({"metadata": {"k": "v" * 513}}, "above_max_length", "metadata.k", "513 characters, at most 512"),
    ({"metadata": {"k": 5}}, "invalid_type", "metadata.k", "expected a string"),
    ({"flavour": 1}, "unknown_parameter", "flavour", "Unknown parameter: 'flavour'"),
    ({"text": {"format": {"type": "json_object"}}}, "invalid_value", "text.format.type", "'text'"),
    ({"tools": [{"type": "function"}]}, "unsupported_parameter", "tools", "not supported"),
    ({"tool_choice": "required"}, "unsupported_parameter", "tool_choice", "not supported"),
    ({"reasoning": {"effort": "high"}}, "unsupported_parameter", "reasoning", "not supported"),
    ({"conversation": "conv_1"}, "unsupported_parameter", "conversation", "not supported"),
    ({"include": ["message.output_text.logprobs"]}, "unsupported_parameter", "include", "not supported"),
    ({"generate": False}, "unsupported_parameter", "generate", "not supported"),
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


@pytest.mark.parametrize("name", ["model", "input"])
def test_required(name: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_create({key: value for key, value in BASE.items() if key != name})
    assert (caught.value.code, caught.value.param) == ("missing_required_parameter", name)


def test_what_asks_for_nothing_is_accepted() -> None:
    nothing = {"tools": [], "tool_choice": "auto", "include": [], "reasoning": {"effort": None}, "prompt": None}
    request = parse_create({**BASE, **nothing, "parallel_tool_calls": False, "stream_options": {}, "top_logprobs": 0})
    assert request.spec() == parse_create(BASE).spec()


def test_defaults_of_a_spec() -> None:
    spec = parse_create(BASE).spec()
    assert spec.input == [Message(role="user", parts=["Hi"])]
    assert (spec.sampling.temperature, spec.sampling.top_p, spec.sampling.max_output_tokens) == (1.0, 1.0, None)
    assert (spec.store, spec.background, spec.truncation, spec.service_tier) == (True, False, "disabled", "default")


def test_our_own_output_may_come_back_as_input() -> None:
    item = {
        "id": "msg_1",
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "Paris.", "annotations": [], "logprobs": []}],
    }
    spec = parse_create({"model": "m", "input": [item, {"role": "user", "content": "Why?"}]}).spec()
    assert spec.input == [
        Message(role="assistant", parts=["Paris."], id="msg_1"),
        Message(role="user", parts=["Why?"]),
    ]


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
