"""What of conversations is refused, with which words, and what becomes of the items that are not."""

from collections.abc import Callable
from typing import Any

import pytest

from services.gateway.api.conversation_schema import items_of, parse_conversation, parse_items, parse_update
from services.gateway.errors import ApiError
from shared.ids import is_id
from shared.records import Item

SENT_BACK: Any = {
    "id": "msg_mine",
    "type": "message",
    "status": "incomplete",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "Par", "annotations": [], "logprobs": []}],
}
MANY: Any = [{"role": "user", "content": "x"}] * 21
WRONG: list[tuple[dict[str, Any], str, str, str]] = [
    ({"items": MANY}, "above_max_length", "items", "21 entries, at most 20"),
    ({"items": "Hi"}, "invalid_type", "items", "expected an array"),
    ({"items": ["Hi"]}, "invalid_type", "items[0]", "expected an object"),
    ({"items": [{"role": "user", "content": 5}]}, "invalid_type", "items[0].content", "a string or an array"),
    ({"items": [{"role": "tool", "content": "x"}]}, "invalid_value", "items[0].role", "'tool'"),
    ({"items": [{"type": "function_call"}]}, "unsupported_value", "items[0].type", "call no tools"),
    ({"items": [{"type": "reasoning"}]}, "unsupported_value", "items[0].type", "do not reason"),
    (
        {"items": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}]},
        "unsupported_value",
        "items[0].content[0].type",
        "text only",
    ),
    (
        {"items": [{"role": "user", "content": [{"type": "output_text", "text": "x"}]}]},
        "invalid_value",
        "items[0].content[0].type",
        "for the role 'assistant'",
    ),
    ({"items": [SENT_BACK, SENT_BACK]}, "invalid_value", "items[1].id", "Duplicate"),
    ({"items": [{"role": "user", "content": "x", "mood": "good"}]}, "unknown_parameter", "items[0].mood", "Unknown"),
]
METADATA: list[tuple[dict[str, Any], str, str, str]] = [
    ({"metadata": {str(n): "" for n in range(17)}}, "above_max_length", "metadata", "17 entries, at most 16"),
    ({"metadata": {"k" * 65: ""}}, "above_max_length", "metadata.", "65 characters, at most 64"),
    ({"metadata": {"k": "v" * 513}}, "above_max_length", "metadata.k", "513 characters, at most 512"),
    ({"metadata": {"k": 1}}, "invalid_type", "metadata.k", "expected a string"),
    ({"metadata": []}, "invalid_type", "metadata", "expected an object"),
    ({"metadata": {}, "nonsense": 1}, "unknown_parameter", "nonsense", "Unknown"),
]
CASES = [
    *((parsed, *wrong) for parsed in (parse_conversation, parse_items) for wrong in WRONG),
    *((parsed, *wrong) for parsed in (parse_conversation, parse_update) for wrong in METADATA),
    (parse_update, {}, "missing_required_parameter", "metadata", "Missing"),
    (parse_items, {}, "missing_required_parameter", "items", "Missing"),
    (parse_items, {"items": []}, "below_min_length", "items", "0 entries, expected at least 1"),
    (parse_items, {"items": None}, "invalid_type", "items", "expected an array"),
]


@pytest.mark.parametrize(("parsed", "body", "code", "param", "words"), CASES, ids=lambda value: str(value)[:40])
def test_what_is_wrong_is_named(parsed: Callable[[Any], Any], body: Any, code: str, param: str, words: str) -> None:
    with pytest.raises(ApiError) as caught:
        parsed(body)
    assert (caught.value.status, caught.value.code) == (400, code)
    assert str(caught.value.param).startswith(param)
    assert words in caught.value.message


@pytest.mark.parametrize("body", [{}, {"items": None, "metadata": None}, {"items": [], "metadata": {}}])
def test_a_conversation_may_begin_with_nothing(body: Any) -> None:
    command = parse_conversation(body)
    assert (items_of(command.items or []), command.metadata or {}) == ([], {})


def test_the_largest_that_is_allowed() -> None:
    metadata = {f"{number:064}": "v" * 512 for number in range(16)}
    assert parse_update({"metadata": metadata}).metadata == metadata
    assert len(parse_items({"items": [{"role": "user", "content": ""}] * 20}).items) == 20


def test_records_hold_what_a_client_sent_under_names_of_ours() -> None:
    parts = [{"type": "input_text", "text": "Why"}, {"type": "text", "text": "?"}]
    given = [
        {"role": "system", "content": parts},
        {"role": "user", "content": "x", "status": "in_progress"},
        {"role": "user", "content": "x", "status": "incomplete"},
        SENT_BACK,
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}], "status": "completed"},
    ]
    items = items_of(parse_items({"items": given}).items)
    assert [(item.role, item.parts, item.status) for item in items] == [
        ("system", ["Why", "?"], "completed"),
        ("user", ["x"], "completed"),
        ("user", ["x"], "completed"),
        ("assistant", ["Par"], "incomplete"),
        ("assistant", ["No."], "completed"),
    ]
    assert all(is_id("msg", item.id) for item in items)
    assert len({item.id for item in items}) == 5
    assert items[0] == Item(id=items[0].id, role="system", parts=["Why", "?"])
