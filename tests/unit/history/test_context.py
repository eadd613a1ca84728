"""What the model is reminded of, token for token."""

import msgspec
import pytest

from services.history.context import PromptTooLong, as_chat, turns_of, with_context
from shared.chat import load_chat_tokenizer
from shared.ids import parse_response_id
from shared.records import Item, Message, Requested
from shared.records.base import Role
from shared.turns import turn_messages
from tests.unit.history.fakes import WordCounter, accepted, an_id, asked, completed, user


def a_turn(text: str, answer: str, response_id: str = "", **spec_changes: object) -> list[Message]:
    response_id = response_id or an_id()
    return turn_messages(accepted(response_id, text=text, **spec_changes), completed(response_id, answer))


def a_request(text: str = "and then?", **spec_changes: object) -> Requested:
    return asked(None, text, **spec_changes).request


def test_turns_come_oldest_first_input_then_answer() -> None:
    response_id = an_id()
    first, second = a_turn("one", "1", response_id), a_turn("two", "2")
    made = with_context(a_request(), [first, second], WordCounter())
    assert isinstance(made, Requested)
    assert [(m.role, m.text) for m in made.context] == [
        ("user", "one"),
        ("assistant", "1"),
        ("user", "two"),
        ("assistant", "2"),
    ]
    assert made.context[1].id == parse_response_id(response_id).message_id
    assert made.input_tokens == WordCounter().count(as_chat(made.prompt()))


def test_a_turn_that_was_asked_for_no_output_contributes_its_input_only() -> None:
    made = with_context(a_request(), [a_turn("be warned", "", generate=False), a_turn("one", "")], WordCounter())
    assert isinstance(made, Requested)
    assert [(m.role, m.text) for m in made.context] == [("user", "be warned"), ("user", "one"), ("assistant", "")]


def test_what_the_gateway_knows_was_said_since_follows_the_turns() -> None:
    request = msgspec.structs.replace(a_request("three"), context=[user("two")])
    made = with_context(request, [a_turn("one", "1")], WordCounter())
    assert isinstance(made, Requested)
    assert [m.text for m in made.prompt()] == ["one", "1", "two", "three"]
    assert made.input_tokens == WordCounter().count(as_chat(made.prompt()))
    long = msgspec.structs.replace(a_request("three", truncation="auto"), context=[user("two"), user("2")])
    for window, left in ((9, ["two", "2", "three"]), (6, ["2", "three"]), (4, ["three"])):
        short = with_context(long, [a_turn("one", "1")], WordCounter(context_window=window))
        assert isinstance(short, Requested)
        assert [m.text for m in short.prompt()] == left


def test_instructions_of_earlier_turns_are_not_carried_over() -> None:
    made = with_context(a_request(instructions="be brief"), [a_turn("one", "1", instructions="old")], WordCounter())
    assert isinstance(made, Requested)
    assert [m.text for m in made.prompt()] == ["be brief", "one", "1", "and then?"]


def test_the_next_prompt_begins_with_this_one_token_for_token() -> None:
    tokenizer = load_chat_tokenizer("")
    turns = [a_turn("My name is Zoë 🐝.", "Hello Zoë!"), a_turn("  Say\n\n3 things ", "1\n2\n3 ")]
    rendered = []
    for count in range(3):
        made = with_context(a_request("next"), turns[:count], tokenizer)
        assert isinstance(made, Requested)
        assert made.input_tokens == tokenizer.count(as_chat(made.prompt()))
        rendered.append(tokenizer.encode(as_chat(made.context), add_generation_prompt=False) if made.context else [])
    assert rendered[2][: len(rendered[1])] == rendered[1]
    assert len(rendered[2]) > len(rendered[1]) > 0


def test_a_prompt_that_fills_the_window_names_both_numbers() -> None:
    counter = WordCounter(context_window=5)
    assert isinstance(with_context(a_request("a b"), [], counter), Requested)
    outcome = with_context(a_request("a b c d"), [a_turn("x", "y")], counter)
    assert outcome == PromptTooLong(9, 5)
    assert "9 tokens" in str(outcome)
    assert "5 tokens" in str(outcome)


def test_truncation_leaves_out_the_fewest_oldest_turns_whole() -> None:
    turns = [a_turn(f"question {n}", f"answer {n}") for n in range(7)]  # 6 tokens each
    for window in range(3, 50):
        made = with_context(a_request("q", truncation="auto"), turns, WordCounter(window))
        kept = min(7, (window - 1 - 2) // 6)  # the input takes 2 tokens, the answer needs 1
        assert isinstance(made, Requested)
        assert made.context == [m for turn in turns[7 - kept :] for m in turn]
        assert made.input_tokens == 2 + 6 * kept


def test_truncation_cannot_shorten_the_input_itself() -> None:
    outcome = with_context(a_request("a b c d e", truncation="auto"), [a_turn("x", "y")], WordCounter(5))
    assert isinstance(outcome, PromptTooLong)


def test_the_parts_of_a_message_are_rendered_as_one_text() -> None:
    message = user("a")
    assert as_chat([message]) == [{"role": "user", "content": "a"}]


@pytest.mark.parametrize(
    ("items", "turns"),
    [
        ("", []),
        ("u", ["u"]),
        ("u a", ["ua"]),
        ("s u a u a", ["sua", "ua"]),
        ("a u u a a s", ["a", "uuaa", "s"]),
        ("u1 a1 u2 a2", ["ua", "ua"]),
        ("u1 a1 u1 a1 u2 a2", ["uaua", "ua"]),
        ("u u1 a1 a u", ["uuaa", "u"]),
        ("u a u1 a1", ["ua", "ua"]),
        ("u1 u2 a2", ["uua"]),
    ],
)
def test_a_turn_ends_where_others_speak_after_the_assistant(items: str, turns: list[str]) -> None:
    """A letter is a role, a digit the response that brought the item."""
    names: dict[str, Role] = {"u": "user", "a": "assistant", "s": "system"}
    built = [
        Item(id=f"msg_{place}", role=names[item[0]], parts=[item], response_id=item[1:] or None)
        for place, item in enumerate(items.split())
    ]
    found = turns_of(built)
    assert ["".join(message.role[0] for message in turn) for turn in found] == turns
    assert [message.id for turn in found for message in turn] == [item.id for item in built]
