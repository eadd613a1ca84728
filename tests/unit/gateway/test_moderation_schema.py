"""What may be asked of moderation, and how what may not be asked is named."""

from typing import Any

import pytest

from services.gateway.api.moderation_schema import MAX_CHARACTERS, MAX_TEXTS, parse_moderation
from services.gateway.errors import ApiError


def part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


TEXTS: list[tuple[Any, list[str]]] = [
    ("one", ["one"]),
    (" ", [" "]),
    (["one"], ["one"]),
    (["one", "two", "one"], ["one", "two", "one"]),
    ([part("one")], ["one"]),
    ([part("one"), part("two")], ["one\ntwo"]),
    (["a"] * MAX_TEXTS, ["a"] * MAX_TEXTS),
    ("ä" * MAX_CHARACTERS, ["ä" * MAX_CHARACTERS]),
]


@pytest.mark.parametrize(("given", "texts"), TEXTS, ids=lambda value: str(value)[:40])
def test_texts_that_get_a_result_each(given: Any, texts: list[str]) -> None:
    assert parse_moderation({"input": given}).texts == texts


IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
REFUSED: list[tuple[dict[str, Any], str, str, str]] = [
    ({}, "missing_required_parameter", "input", "Missing"),
    ({"input": None}, "invalid_type", "input", "a string or an array"),
    ({"input": 7}, "invalid_type", "input", "a string or an array, but got a number"),
    ({"input": {}}, "invalid_type", "input", "a string or an array, but got an object"),
    ({"input": ""}, "below_min_length", "input", "0 characters"),
    ({"input": []}, "below_min_length", "input", "0 entries"),
    ({"input": ["a", ""]}, "below_min_length", "input[1]", "0 characters"),
    ({"input": [part("")]}, "below_min_length", "input[0].text", "0 characters"),
    ({"input": ["a"] * (MAX_TEXTS + 1)}, "above_max_length", "input", "65 entries, at most 64"),
    ({"input": "a" * (MAX_CHARACTERS + 1)}, "above_max_length", "input", "65,537 characters, at most 65,536"),
    ({"input": ["a" * 40_000, "b" * 40_000]}, "above_max_length", "input", "80,000 characters"),
    ({"input": [1, 2, 3]}, "unsupported_value", "input", "send text, not tokens"),
    ({"input": [[1, 2], [3]]}, "unsupported_value", "input", "send text, not tokens"),
    ({"input": [True]}, "invalid_type", "input[0]", "a string or an object, but got a boolean"),
    ({"input": [None]}, "invalid_type", "input[0]", "a string or an object, but got null"),
    ({"input": [IMAGE]}, "unsupported_value", "input[0].type", "only text is judged"),
    ({"input": [part("a"), IMAGE]}, "unsupported_value", "input[1].type", "only text is judged"),
    ({"input": [{"type": "video", "text": "a"}]}, "invalid_value", "input[0].type", "'text'"),
    ({"input": [{"text": "a"}]}, "missing_required_parameter", "input[0].type", "Missing"),
    ({"input": [{"type": "text"}]}, "missing_required_parameter", "input[0].text", "Missing"),
    ({"input": [{**part("a"), "role": "user"}]}, "unknown_parameter", "input[0].role", "Unknown"),
    ({"input": ["a", part("b")]}, "invalid_value", "input", "strings and parts"),
    ({"input": "a", "model": "m" * 257}, "above_max_length", "model", "257 characters"),
    ({"input": "a", "model": 1}, "invalid_type", "model", "expected a string"),
    ({"input": "a", "stream": True}, "unknown_parameter", "stream", "Unknown parameter"),
]


@pytest.mark.parametrize(("body", "code", "param", "words"), REFUSED, ids=lambda value: str(value)[:40])
def test_refused_by_name(body: dict[str, Any], code: str, param: str, words: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse_moderation(body)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, param)
    assert words in caught.value.message
