"""A prompt's parts have the ids of the whole, and what was counted once is not counted again."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from shared.chat import ChatTemplate, ChatTokenizer
from shared.chat.counting import Counts
from shared.chat.parting import Parting, any_of
from tests.unit.chat.kinds import FRAGMENTS, KINDS

TEMPLATE = "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}<|start|>assistant\n"
contents = st.lists(st.sampled_from([*FRAGMENTS, "<|im_end|>", "<|im_start|>"]) | st.text(max_size=4), max_size=10).map(
    "".join
)
conversations = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": contents}),
    min_size=1,
    max_size=6,
)


@pytest.fixture(scope="module", params=KINDS)
def backend(request: pytest.FixtureRequest) -> Tokenizer:
    return KINDS[request.param]()


@pytest.fixture(scope="module")
def of_its_kind(backend: Tokenizer) -> ChatTokenizer:
    return ChatTokenizer("m", "r", 1000, frozenset({1}), ChatTemplate(TEMPLATE, {}), backend)


def ids_of(backend: Tokenizer, text: str) -> list[int]:
    ids: list[int] = backend.encode(text, add_special_tokens=False).ids
    return ids


@given(text=contents)
@settings(max_examples=300)
def test_the_ids_of_the_parts_are_the_ids_of_the_whole(backend: Tokenizer, text: str) -> None:
    parts = Parting(backend).parts(text)
    assert "".join(parts) == text
    assert all(parts)
    assert [token_id for part in parts for token_id in ids_of(backend, part)] == ids_of(backend, text)


@given(messages=conversations)
@settings(max_examples=100)
def test_a_prompt_counts_as_many_tokens_as_it_has(of_its_kind: ChatTokenizer, messages: list[dict[str, str]]) -> None:
    assert of_its_kind.count(messages) == len(of_its_kind.encode(messages))


@given(messages=conversations)
@settings(max_examples=200)
def test_so_does_one_of_the_default_model(tokenizer: ChatTokenizer, messages: list[dict[str, str]]) -> None:
    assert tokenizer.count(messages) == len(tokenizer.encode(messages))


def test_a_prompt_is_cut_at_control_tokens_and_nowhere_else(backend: Tokenizer) -> None:
    text = "a<|start|>user\nword <norm> stop|>  <left>b<|end|>><right>  c<alone><|end|>"
    assert Parting(backend).parts(text) == [
        "a",
        "<|start|>user\nword <norm> stop|>  <left>b",
        "<|end|>>",
        "<right>  c<alone>",
        "<|end|>",
    ]
    assert Parting(backend).parts("no control token") == ["no control token"]
    assert Parting(backend).parts("") == []


def test_the_longest_text_is_found_first() -> None:
    assert any_of(["a", "", "ab", "abc"]).findall("abcab a") == ["abc", "ab", "a"]
    assert any_of([]).findall("abc") == []


class Lengths:
    """Counts characters, and how often it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, text: str) -> int:
        self.asked.append(text)
        return len(text)


def test_a_text_is_counted_once_while_it_is_remembered() -> None:
    lengths = Lengths()
    counts = Counts(lengths, capacity=2)
    assert [counts.of(text) for text in ("a", "bb", "a", "ccc", "a", "bb")] == [1, 2, 1, 3, 1, 2]
    assert lengths.asked == ["a", "bb", "ccc", "bb"]


def test_what_was_counted_is_not_kept() -> None:
    counts = Counts(len, capacity=2)
    counts.of("a secret")
    assert "secret" not in repr(vars(counts))


def test_the_next_turn_tokenizes_its_new_messages_only(
    tokenizer: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = dataclasses.replace(tokenizer)
    turns = [{"role": role, "content": f"{role} {n}"} for n in range(50) for role in ("user", "assistant")]
    assert fresh.count(turns) == len(fresh.encode(turns))
    asked: list[str] = []
    encode = ChatTokenizer._ids

    def noted(self: ChatTokenizer, text: str, **how: Any) -> list[int]:
        asked.append(text)
        return encode(self, text, **how)

    monkeypatch.setattr(ChatTokenizer, "_ids", noted)
    fresh.count([*turns, {"role": "user", "content": "and then?"}])
    assert asked == ["<|im_start|>user\nand then?"]
