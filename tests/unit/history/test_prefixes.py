"""A turn's prompt begins with the prompt of the turn before and what was answered to it: prefix caches stay warm."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.history.context import Turn, as_chat, turns_of, with_context
from shared.chat import ChatTokenizer, load_chat_tokenizer
from shared.records import Requested
from shared.turns import turn_items, turn_messages
from tests.unit.history.fakes import accepted, an_id, asked, completed

Exchange = tuple[str, str]  # what the user said, what was answered

words = st.text(max_size=12) | st.sampled_from(["1\n2\n3 ", "  two", "<|im_end|>", "<|im_start|>user\n", "Zoë 🐝", ""])
# An answer that begins with a blank may be merged with the line break in front of it: see the last test.
answers = words.filter(lambda text: not text[:1].isspace())
dialogues = st.lists(st.tuples(words, answers), min_size=2, max_size=5)


@pytest.fixture(scope="module")
def tokenizer() -> ChatTokenizer:
    return load_chat_tokenizer("")


def of_a_chain(said: Sequence[Exchange]) -> list[Turn]:
    return [turn_messages(accepted(an_id(), text=text), completed(an_id(), answer)) for text, answer in said]


def of_a_conversation(said: Sequence[Exchange]) -> list[Turn]:
    ended = [(accepted(an_id(), text=text, conversation="conv_1"), completed(an_id(), answer)) for text, answer in said]
    return turns_of([item for response in ended for item in turn_items(*response)])


def prompt(turns: Sequence[Turn], text: str, instructions: str | None, tokenizer: ChatTokenizer) -> list[int]:
    made = with_context(asked(None, text, instructions=instructions).request, turns, tokenizer)
    assert isinstance(made, Requested)
    return tokenizer.encode(as_chat(made.prompt()))


@given(said=dialogues, instructions=st.none() | words)
@settings(max_examples=100)
def test_every_prompt_begins_with_the_last_one_and_its_answer(
    tokenizer: ChatTokenizer, said: list[Exchange], instructions: str | None
) -> None:
    before: list[int] = []
    for number, (text, answer) in enumerate(said):
        ids = prompt(of_a_chain(said[:number]), text, instructions, tokenizer)
        assert prompt(of_a_conversation(said[:number]), text, instructions, tokenizer) == ids
        assert ids[: len(before)] == before
        before = ids + tokenizer.encode_text(answer)


@given(text=words, answer=words)
@settings(max_examples=100)
def test_whatever_is_answered_spoils_no_more_than_the_line_break_before_it(
    tokenizer: ChatTokenizer, text: str, answer: str
) -> None:
    first = prompt([], text, None, tokenizer)
    second = prompt(of_a_chain([(text, answer)]), "next", None, tokenizer)
    assert second[: len(first) - 1] == first[:-1]
