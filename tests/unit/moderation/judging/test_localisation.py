"""Where an offence begins, by what a backend that knows only whole texts says of their parts."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.moderation.judging.localisation import MAX_STARTS, Candidates, clause_starts, offence_start


def clauses(text: str, anchor: int = 0) -> list[str]:
    """The text behind the anchor, cut where clauses begin."""
    starts = [*clause_starts(text, anchor), len(text)]
    return [text[start:end] for start, end in pairwise(starts)]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("It is late. We go!", ["It is late. ", "We go!"]),
        ("first this, then that; so: done", ["first this, ", "then that; ", "so: ", "done"]),
        ('He said "Stop." Then he left.', ['He said "Stop." ', "Then he left."]),
        ("3.14 is 1,000 times a:b", ["3.14 is 1,000 times a:b"]),
        ("one\n- two\n\n- three", ["one\n", "- two\n\n", "- three"]),
        ("well-known — or not", ["well-known — ", "or not"]),
        ("我们走吧。好的，再见", ["我们走吧。", "好的，", "再见"]),
        ("the end. ", ["the end. "]),
    ],
)
def test_clauses_begin_behind_what_ends_them(text: str, parts: list[str]) -> None:
    assert clauses(text) == parts


def test_where_clauses_are_too_many_sentences_count_and_the_last_of_those() -> None:
    sentence = "a, b, c. "
    assert clauses(sentence * 3) == [sentence] * 3
    text = sentence * 20
    starts = clause_starts(text, 0)
    assert starts == (0, *(len(text) - len(sentence) * n for n in range(MAX_STARTS - 1, 0, -1)))


@given(st.text(alphabet="ab ,.\n", max_size=80), st.data())
def test_candidates_ascend_from_the_anchor_and_are_few(text: str, data: st.DataObject) -> None:
    anchor = data.draw(st.integers(0, len(text)))
    starts = clause_starts(text, anchor)
    assert starts[0] == anchor and len(starts) <= MAX_STARTS
    assert list(starts) == sorted(set(starts)) and starts[-1] <= len(text)


def test_a_cut_asks_about_all_that_came_before_and_a_mask_about_what_is_not_public_yet() -> None:
    text = "Public. One. Two. Three."
    cut, mask = Candidates.for_cut(text, len(text) - 8), Candidates.for_mask(text, len(text) - 8)
    assert cut.texts == ("One. Two. Three.", "Two. Three.", "Three.", "Public. One. ", "Public. One. Two. ")
    assert mask.texts == ("One. Two. Three.", "Two. Three.", "Three.", "One. ", "One. Two. ")
    assert cut.starts == mask.starts == (8, 13, 18)
    assert Candidates.for_cut("short", 100).texts == ("short",)


def located(text: str, bad: str, unpublished: int = 100) -> str | None:
    """The text from where the offence begins, for a backend that finds `bad` in it."""
    candidates = Candidates.for_cut(text, unpublished)
    start = offence_start(candidates, [0.95 * (bad in part) for part in candidates.texts], 0.9)
    return None if start is None else text[start:]


def test_the_offence_begins_with_its_clause() -> None:
    assert located("It is fine. But BAD things happen, yes. Bye.", "BAD") == "But BAD things happen, yes. Bye."


def test_of_two_offences_the_first_decides() -> None:
    """From the second on the text reaches the threshold too, but so does what stands before it."""
    assert (
        located("It is fine. One BAD thing. Then another BAD thing.", "BAD") == "One BAD thing. Then another BAD thing."
    )


def test_what_began_before_anything_unpublished_begins_nowhere_behind() -> None:
    assert located("A BAD thing. Then all is fine. Bye.", "BAD", unpublished=22) is None


def test_an_offence_that_takes_two_clauses_begins_with_the_first_of_them() -> None:
    candidates = Candidates.for_cut("Fine. Take this, then mix that. Bye.", 100)
    both = [0.95 * ("Take this" in part and "mix that" in part) for part in candidates.texts]
    assert offence_start(candidates, both, 0.9) == len("Fine. ")


@given(st.lists(st.sampled_from([0.0, 0.89, 0.9, 1.0]), min_size=15, max_size=15))
def test_the_start_is_never_behind_a_text_that_reaches_the_threshold_already(scores: list[float]) -> None:
    candidates = Candidates(tuple(range(0, 80, 10)), ("",) * 15)
    start = offence_start(candidates, scores, 0.9)
    if start is None:
        assert max(scores[:8]) < 0.9
    else:
        clean_up_to = [
            prefix for prefix, score in zip(candidates.starts[1:], scores[8:], strict=True) if prefix <= start
        ]
        assert all(scores[7 + prefix // 10] < 0.9 for prefix in clean_up_to)
