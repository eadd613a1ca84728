"""The tokenizer built here is the one that transformers builds from the same GGUF file."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.chat import ChatTokenizer

pytestmark = pytest.mark.weights  # transformers reads the whole file for its tokenizer

CORPUS = [
    "",
    " ",
    "Hello, world!",
    "What's the capital of France? It's Paris, isn't it?",
    "  two leading spaces,\ttabs\t\tand trailing   ",
    "line\nbreaks\r\nof\n\nall\n\n\nkinds",
    "1 12 123 3.14159 1,000,000 0x1F 2026-11-21",
    "def f(x: int) -> str:\n    return f'{x!r}'  # code\n",
    "Grüße aus Köln, naïve façade, Ærøskøbing",
    "Привет, как дела? 你好，世界。 こんにちは 안녕하세요 مرحبا שלום हिन्दी",
    "emoji 🎉👩‍👩‍👧‍👦🏳️‍🌈 and combining e\u0301 vs é",
    "\u00a0non-breaking\u2003em space\u200bzero width\ufeff",
    "control \x00\x01\x7f characters",
    '{"json": [true, null, 1e-9], "nested": {"k": "v"}}',
    "²½",
]
CONVERSATIONS = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi 🎉"}],
    [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "Two\n"},
        {"role": "user", "content": "  Three "},
    ],
]


@pytest.mark.parametrize("text", CORPUS)
def test_plain_text_has_the_same_ids(tokenizer: ChatTokenizer, reference: Any, text: str) -> None:
    assert tokenizer.encode_text(text) == reference.encode(text, add_special_tokens=False)


@given(text=st.text())
@settings(max_examples=300)
def test_any_text_has_the_same_ids(tokenizer: ChatTokenizer, reference: Any, text: str) -> None:
    text = "".join(" " if character.isnumeric() else character for character in text)
    assert tokenizer.encode_text(text) == reference.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("messages", CONVERSATIONS)
@pytest.mark.parametrize("prompt", [True, False])
def test_conversations_render_and_encode_alike(
    tokenizer: ChatTokenizer, reference: Any, messages: list[dict[str, str]], prompt: bool
) -> None:
    text = reference.apply_chat_template(messages, add_generation_prompt=prompt, tokenize=False)
    assert tokenizer.render(messages, add_generation_prompt=prompt) == text
    assert tokenizer.encode(messages, add_generation_prompt=prompt) == reference.encode(text, add_special_tokens=False)


def test_special_ids_agree(tokenizer: ChatTokenizer, reference: Any) -> None:
    assert tokenizer.eos_ids == {reference.eos_token_id}
    assert tokenizer.backend.get_vocab_size() == len(reference)


@pytest.mark.parametrize(
    ("text", "tokens"), [("a  1", ["a", "ĠĠ", "1"]), ("\n\n37", ["ĊĊ", "3", "7"]), ("x Ⅷ", ["x", "Ġ", "â", "ħ", "§"])]
)
def test_digits_are_cut_off_before_anything_is_merged(tokenizer: ChatTokenizer, text: str, tokens: list[str]) -> None:
    """llama.cpp's rule for `tokenizer.ggml.pre = smollm`, where transformers 5.23 takes GPT-2's."""
    assert tokenizer.backend.encode(text, add_special_tokens=False).tokens == tokens
