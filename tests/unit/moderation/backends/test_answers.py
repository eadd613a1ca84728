"""What a guard model's answer means, over a vocabulary of words."""

import math
from collections.abc import Sequence

import pytest

from services.moderation.backends.answers import AnswerReader, Reading, Token, UnreadableAnswerError

WORDS = [
    "",
    "\n\n",
    "safe",
    "unsafe",
    "\n",
    "S1",
    "S10",
    ",",
    " S2",
    "Yes",
    "No",
    "Safety:",
    " Safe",
    " Unsafe",
    " Controversial",
]
WORDS += ["\nCategories:", " Violent", " Non-violent", " PII", "Well"]
LLAMA = {"S1": "violence", "S2": "illicit", "S10": "hate"}
QWEN = {r"\bViolent\b": "violence", r"Non-violent": "illicit", r"PII": "privacy"}


def decode(ids: Sequence[int]) -> str:
    return "".join(WORDS[token] for token in ids)


def said(*words: str, likely: dict[int, dict[str, float]] | None = None) -> list[Token]:
    """Tokens of an answer; `likely`: number of a token → what was likely there."""
    return [
        Token(
            WORDS.index(word),
            tuple((WORDS.index(other), p) for other, p in (likely or {}).get(number, {}).items()),
        )
        for number, word in enumerate(words)
    ]


def llama(tokens: list[Token]) -> Reading:
    return AnswerReader(r"^\s*safe", LLAMA, decode).read(tokens)


def test_the_score_is_all_but_the_harmless_verdict() -> None:
    verdict = {1: {"unsafe": 0.7, "safe": 0.25, "Well": 0.05}}
    assert llama(said("\n\n", "unsafe", "\n", "S1", likely=verdict)) == Reading({"violence": 0.75}, True)


def test_a_code_is_a_word() -> None:
    assert llama(said("\n\n", "unsafe", "\n", "S10")).scores == {"hate": 1.0}
    assert llama(said("\n\n", "unsafe", "\n", "S1", ",", " S2")).scores == {"violence": 1.0, "illicit": 1.0}


def test_without_probabilities_it_is_certain() -> None:
    assert llama(said("\n\n", "unsafe", "\n", "S1")) == Reading({"violence": 1.0}, True)
    assert llama(said("\n\n", "safe")) == Reading({}, False)


def test_a_harmless_answer_names_no_category_that_it_did_not_come_to() -> None:
    assert llama(said("\n\n", "safe", likely={1: {"safe": 0.6, "unsafe": 0.4}})) == Reading({}, False)


@pytest.mark.parametrize("probability", [0.01, 0.3, 0.49, 0.51, 0.99])
def test_a_bare_verdict_has_its_score_whichever_way_it_falls(probability: float) -> None:
    """The score does not jump where the likelier verdict changes."""
    reader = AnswerReader(r"^\s*No", {r"^\s*Yes": "harassment"}, decode)
    word = "Yes" if probability > 0.5 else "No"
    reading = reader.read(said(word, likely={0: {"Yes": probability, "No": 1 - probability}}))
    assert reading.unsafe == (word == "Yes")
    assert reading.scores == {"harassment": pytest.approx(probability)}


def test_the_verdict_is_found_behind_a_preamble() -> None:
    reader = AnswerReader(r"^Safety: Safe", QWEN, decode)
    verdict = {0: {"Safety:": 1.0}, 1: {" Unsafe": 0.6, " Controversial": 0.3, " Safe": 0.1}}
    answer = said("Safety:", " Unsafe", "\nCategories:", " Violent", likely=verdict)
    assert reader.read(answer) == Reading({"violence": pytest.approx(0.9)}, True)
    assert reader.read(said("Safety:", " Unsafe", "\nCategories:", " Non-violent")).scores == {"illicit": 1.0}


def test_several_harmless_spellings_count_together() -> None:
    reader = AnswerReader(r"^\s*(No|safe)", {"^Yes": "hate"}, decode)
    verdict = {0: {"Yes": 0.4, "No": 0.35, "safe": 0.25}}
    assert reader.read(said("Yes", likely=verdict)).scores == {"hate": pytest.approx(0.4)}


def test_probabilities_that_pass_one_by_rounding_make_no_score_below_zero() -> None:
    verdict = {0: {"No": 1.0 + 1e-7, "Yes": 1e-9}}
    reading = AnswerReader("^No", {"^Yes": "hate"}, decode).read(said("No", likely=verdict))
    assert reading.scores == {"hate": 0.0}
    assert math.copysign(1, reading.scores["hate"]) == 1


def test_probabilities_that_are_no_numbers_are_no_harmless_answer() -> None:
    reader = AnswerReader("^No", {"^Yes": "hate"}, decode)
    with pytest.raises(UnreadableAnswerError, match="no numbers"):
        reader.read(said("No", likely={0: {"No": math.nan, "Yes": math.nan}}))


def test_two_labels_of_one_category_are_one() -> None:
    reader = AnswerReader("^safe", {"S1": "violence", "S2": "violence"}, decode)
    assert reader.read(said("unsafe", "\n", "S1", ",", " S2")).scores == {"violence": 1.0}


@pytest.mark.parametrize("answer", [("Well",), ("unsafe",), ("unsafe", "\n"), ()])
def test_an_answer_that_says_nothing_known_is_no_harmless_one(answer: tuple[str, ...]) -> None:
    with pytest.raises(UnreadableAnswerError, match="labels"):
        llama(said(*answer))


def test_what_it_says_of_an_answer_does_not_repeat_it() -> None:
    with pytest.raises(UnreadableAnswerError) as caught:
        llama(said("Well"))
    assert "Well" not in str(caught.value)
