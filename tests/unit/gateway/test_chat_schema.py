"""Which completions are refused, with which words; and what the accepted ones become."""

import typing
from typing import Any

import pytest
from openai.types.chat import completion_create_params as sdk

from services.gateway.api.chat_schema import _NEUTRAL, CreateCompletion, parse_completion
from services.gateway.errors import ApiError
from shared.records import Message, ResponseSpec, Sampling

HI = {"role": "user", "content": "Hi"}
BASE: dict[str, Any] = {"model": "m", "messages": [HI]}


def of_message(**fields: Any) -> dict[str, Any]:
    return {"messages": [HI, {"role": "assistant", "content": "Hello", **fields}]}


def of_part(part: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": [{"type": "text", "text": "Look"}, part]}]}


REFUSED: list[tuple[dict[str, Any], str, str, str]] = [
    ({"messages": None}, "invalid_type", "messages", "expected an array, but got null"),
    ({"messages": "Hi"}, "invalid_type", "messages", "expected an array, but got a string"),
    ({"messages": []}, "empty_input", "messages", "must hold some text"),
    ({"messages": [{"role": "user", "content": " \n"}]}, "empty_input", "messages", "must hold some text"),
    ({"messages": ["Hi"]}, "invalid_type", "messages[0]", "expected an object"),
    ({"messages": [{"content": "Hi"}]}, "missing_required_parameter", "messages[0].role", "Missing"),
    ({"messages": [{"role": "user"}]}, "missing_required_parameter", "messages[0].content", "Missing"),
    ({"messages": [{"role": "user", "content": None}]}, "invalid_type", "messages[0].content", "a string or an array"),
    ({"messages": [{"role": "bot", "content": "x"}]}, "invalid_value", "messages[0].role", "'system' or 'developer'"),
    ({"messages": [{"role": ["user"], "content": "x"}]}, "invalid_type", "messages[0].role", "expected a string"),
    ({"messages": [HI, {"role": "tool", "tool_call_id": "c", "content": "x"}]}, "unsupported_value", "messages[1].role",
     "'tool' is not supported"),
    ({"messages": [HI, {"role": "function", "name": "f", "content": "x"}]}, "unsupported_value", "messages[1].role",
     "'function' is not supported"),
    ({"messages": [{**HI, "name": "ann"}]}, "unsupported_parameter", "messages[0].name", "not supported"),
    ({"messages": [{**HI, "colour": "red"}]}, "unknown_parameter", "messages[0].colour", "Unknown parameter"),
    (of_message(refusal="No."), "unsupported_parameter", "messages[1].refusal", "not supported"),
    (of_message(tool_calls=[{"id": "c"}]), "unsupported_parameter", "messages[1].tool_calls", "not supported"),
    (of_message(function_call={"name": "f"}), "unsupported_parameter", "messages[1].function_call", "not supported"),
    (of_message(audio={"id": "a"}), "unsupported_parameter", "messages[1].audio", "not supported"),
    (of_message(annotations=[{"type": "url_citation"}]), "unsupported_parameter", "messages[1].annotations", "not"),
    (of_message(content=None, tool_calls=[{"id": "c"}]), "invalid_type", "messages[1].content", "got null"),
    (of_part({"type": "image_url", "image_url": {"url": "x"}}), "unsupported_value", "messages[0].content[1].type",
     "'image_url' is not supported by this server: its models read and write text only"),
    (of_part({"type": "input_audio", "input_audio": {}}), "unsupported_value", "messages[0].content[1].type", "audio"),
    (of_part({"type": "file", "file": {}}), "unsupported_value", "messages[0].content[1].type", "'file'"),
    (of_part({"type": "song"}), "invalid_value", "messages[0].content[1].type", "'text' or 'refusal'"),
    (of_part({"type": "text"}), "missing_required_parameter", "messages[0].content[1].text", "Missing"),
    (of_part({"type": "text", "text": "x", "prompt_cache_breakpoint": {"mode": "explicit"}}), "unsupported_parameter",
     "messages[0].content[1].prompt_cache_breakpoint", "not supported"),
    (of_part({"type": "refusal", "refusal": "No."}), "invalid_value", "messages[0].content[1].type", "'assistant'"),
    (of_part("text"), "invalid_type", "messages[0].content[1]", "expected an object"),
    ({"model": 5}, "invalid_type", "model", "expected a string"),
    ({"max_tokens": 0}, "below_min_value", "max_tokens", ">= 1"),
    ({"max_completion_tokens": "9"}, "invalid_type", "max_completion_tokens", "expected an integer"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "mutually_exclusive_parameters", "max_tokens", "is 5 and"),
    ({"temperature": 2.1}, "above_max_value", "temperature", "<= 2"),
    ({"top_p": -0.1}, "below_min_value", "top_p", ">= 0"),
    ({"top_k": 0}, "below_min_value", "top_k", ">= 1"),
    ({"seed": 2**63}, "above_max_value", "seed", "<="),
    ({"seed": 1.5}, "invalid_type", "seed", "expected an integer"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "above_max_length", "stop", "5 entries, at most 4"),
    ({"stop": ""}, "below_min_length", "stop", "at least 1"),
    ({"stop": ["a", ""]}, "below_min_length", "stop[1]", "at least 1"),
    ({"stop": "x" * 257}, "above_max_length", "stop", "257 characters, at most 256"),
    ({"stop": 5}, "invalid_type", "stop", "a string or an array"),
    ({"presence_penalty": 2.5}, "above_max_value", "presence_penalty", "<= 2"),
    ({"frequency_penalty": -2.5}, "below_min_value", "frequency_penalty", ">= -2"),
    ({"logprobs": 1}, "invalid_type", "logprobs", "expected a boolean"),
    ({"top_logprobs": 5}, "invalid_value", "top_logprobs", "requires 'logprobs'"),
    ({"top_logprobs": 5, "logprobs": False}, "invalid_value", "top_logprobs", "requires 'logprobs'"),
    ({"top_logprobs": 21, "logprobs": True}, "above_max_value", "top_logprobs", "<= 20"),
    ({"n": 0}, "below_min_value", "n", ">= 1"),
    ({"n": 9}, "above_max_value", "n", "<= 8"),
    ({"n": True}, "invalid_type", "n", "expected an integer"),
    ({"stream": "yes"}, "invalid_type", "stream", "expected a boolean"),
    ({"stream_options": {"include_usage": True}}, "invalid_value", "stream_options", "'stream' is true"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "invalid_type", "stream_options.include_usage", "bool"),
    ({"stream": True, "stream_options": {"include_obfuscation": True}}, "invalid_value",
     "stream_options.include_obfuscation", "False"),
    ({"store": "no"}, "invalid_type", "store", "expected a boolean"),
    ({"metadata": {"k": 5}}, "invalid_type", "metadata.k", "expected a string"),
    ({"metadata": {str(n): "" for n in range(17)}}, "above_max_length", "metadata", "17 entries, at most 16"),
    ({"service_tier": "gold"}, "invalid_value", "service_tier", "'gold'"),
    ({"user": "u" * 257}, "above_max_length", "user", "at most 256"),
    ({"flavour": 1}, "unknown_parameter", "flavour", "Unknown parameter: 'flavour'"),
    ({"input": "Hi"}, "unknown_parameter", "input", "Unknown parameter"),
    ({"background": False}, "unknown_parameter", "background", "Unknown parameter"),
    ({"audio": {"voice": "x"}}, "unsupported_parameter", "audio", "not supported"),
    ({"function_call": {"name": "f"}}, "unsupported_parameter", "function_call", "call no tools"),
    ({"functions": [{"name": "f"}]}, "unsupported_parameter", "functions", "call no tools"),
    ({"logit_bias": {"50256": -100}}, "unsupported_parameter", "logit_bias", "not supported"),
    ({"modalities": ["text", "audio"]}, "unsupported_parameter", "modalities", "text only"),
    ({"moderation": {"model": None}}, "invalid_type", "moderation.model", "expected a string"),
    ({"moderation": {"model": "x", "input": "block"}}, "unknown_parameter", "moderation.input", "Unknown"),
    ({"prediction": {"type": "content", "content": "x"}}, "unsupported_parameter", "prediction", "not supported"),
    ({"prompt_cache_options": {"mode": "explicit"}}, "unsupported_parameter", "prompt_cache_options", "not supported"),
    ({"reasoning_effort": "high"}, "unsupported_parameter", "reasoning_effort", "do not reason"),
    ({"response_format": {"type": "json_object"}}, "unsupported_parameter", "response_format", "plain text"),
    ({"tool_choice": "required"}, "unsupported_parameter", "tool_choice", "call no tools"),
    ({"tools": [{"type": "function"}]}, "unsupported_parameter", "tools", "call no tools"),
    ({"verbosity": "low"}, "unsupported_parameter", "verbosity", "not supported"),
    ({"web_search_options": {}}, "unsupported_parameter", "web_search_options", "call no tools"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "code", "param", "words"), REFUSED, ids=lambda value: str(value)[:40])
def test_refused(fields: dict[str, Any], code: str, param: str, words: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_completion({**BASE, **fields})
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, param)
    assert words in caught.value.message
    assert set(caught.value.body()) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("name", ["model", "messages"])
def test_required(name: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_completion({key: value for key, value in BASE.items() if key != name})
    assert (caught.value.code, caught.value.param) == ("missing_required_parameter", name)


NOTHING: dict[str, list[Any]] = {
    "audio": [None],
    "function_call": [None, "none", "auto"],
    "functions": [None, []],
    "logit_bias": [None, {}],
    "modalities": [None, ["text"]],
    "prediction": [None],
    "prompt_cache_options": [None, {}],
    "reasoning_effort": [None, "none"],
    "response_format": [None, {"type": "text"}],
    "tool_choice": [None, "none", "auto"],
    "tools": [None, []],
    "verbosity": [None, "medium"],
    "web_search_options": [None],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in NOTHING.items() for value in values])
def test_what_asks_for_nothing_is_accepted(name: str, value: Any) -> None:
    assert parse_completion({**BASE, name: value}) == parse_completion(BASE)


@pytest.mark.parametrize("name", sorted(CreateCompletion.model_fields.keys() - {"model", "messages"}))
def test_null_is_the_default_of_every_field_that_is_served(name: str) -> None:
    assert parse_completion({**BASE, name: None}).specs() == parse_completion(BASE).specs()


def test_every_field_of_the_sdk_is_served_or_refused_by_name() -> None:
    known = typing.get_type_hints(sdk.CompletionCreateParamsBase).keys() | {"stream"}
    assert known - CreateCompletion.model_fields.keys() == _NEUTRAL.keys() == NOTHING.keys()
    assert CreateCompletion.model_fields.keys() - known == {"top_k", "previous_response_id"}


def spec(**fields: Any) -> ResponseSpec:
    (only,) = parse_completion({**BASE, **fields}).specs()
    return only


def sampling(**fields: Any) -> Sampling:
    return spec(**fields).sampling


def test_defaults_of_a_spec() -> None:
    assert spec() == ResponseSpec(
        model="m", input=[Message(role="user", parts=["Hi"])], store=False, service_tier="auto"
    )


SAMPLED: list[tuple[dict[str, Any], Sampling]] = [
    ({"max_tokens": 5}, Sampling(max_output_tokens=5)),
    ({"max_completion_tokens": 6}, Sampling(max_output_tokens=6)),
    ({"max_tokens": 6, "max_completion_tokens": 6}, Sampling(max_output_tokens=6)),
    ({"temperature": 0, "top_p": 1}, Sampling(temperature=0.0)),
    ({"top_p": 0.5, "top_k": 3}, Sampling(top_p=0.5, top_k=3)),
    ({"top_p": 0}, Sampling(top_p=0.0)),
    ({"seed": -(2**63)}, Sampling(seed=-(2**63))),
    ({"stop": "x" * 256}, Sampling(stop=["x" * 256])),
    ({"stop": ["\n", "END"]}, Sampling(stop=["\n", "END"])),
    ({"stop": []}, Sampling()),
    ({"presence_penalty": -2, "frequency_penalty": 2.0}, Sampling(presence_penalty=-2.0, frequency_penalty=2.0)),
    ({"logprobs": True}, Sampling(logprobs=0)),
    ({"logprobs": True, "top_logprobs": 20}, Sampling(logprobs=20)),
    ({"logprobs": False}, Sampling()),
]


@pytest.mark.parametrize(("fields", "wanted"), SAMPLED, ids=lambda value: str(value)[:40])
def test_sampling(fields: dict[str, Any], wanted: Sampling) -> None:
    assert sampling(**fields) == wanted


CARRIED: list[tuple[str, Any, Any]] = [
    ("store", True, True),
    ("store", False, False),
    ("metadata", {"team": "atlas"}, {"team": "atlas"}),
    ("user", "ann", "ann"),
    ("safety_identifier", "s1", "s1"),
    ("prompt_cache_key", "k", "k"),
    ("prompt_cache_retention", "24h", "24h"),
    ("service_tier", "flex", "flex"),
    ("parallel_tool_calls", False, False),
    ("previous_response_id", "resp_" + "0" * 32, "resp_" + "0" * 32),
    ("previous_response_id", "chatcmpl-" + "0" * 32, "resp_" + "0" * 32),
]


@pytest.mark.parametrize(("name", "value", "carried"), CARRIED)
def test_carried(name: str, value: Any, carried: Any) -> None:
    assert getattr(spec(**{name: value}), name) == carried


def test_turns_keep_their_roles_and_parts() -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind."}]},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "user", "content": "Please"},
    ]
    assert spec(messages=turns).input == [
        Message(role="system", parts=["Be brief."]),
        Message(role="developer", parts=["Be ", "kind."]),
        Message(role="user", parts=["Hi"]),
        Message(role="assistant", parts=["No."]),
        Message(role="user", parts=["Please"]),
    ]


def test_our_own_answer_may_come_back_whole() -> None:
    answer = {"role": "assistant", "content": "Hello", "refusal": None, "annotations": [], "audio": None}
    also = {**answer, "tool_calls": None, "function_call": None}
    assert spec(messages=[HI, also, HI]).input[1] == Message(role="assistant", parts=["Hello"])


def test_each_choice_has_a_seed_of_its_own_within_64_bits() -> None:
    specs = parse_completion({**BASE, "n": 3, "seed": 2**63 - 2}).specs()
    assert [one.sampling.seed for one in specs] == [2**63 - 2, 2**63 - 1, -(2**63)]
    assert len({(one.model, one.store, one.sampling.temperature) for one in specs}) == 1


def test_choices_without_a_seed_are_alike() -> None:
    first, second = parse_completion({**BASE, "n": 2}).specs()
    assert first == second
