"""A finder behind the port: long texts in bounded steps, and what lies inside what."""

import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.moderation.backends.finding import CHUNK, OVERLAP, Finder, FindingBackend, Found, chunks, spans_in
from services.moderation.backends.port import BackendError, Span
from tests.unit.moderation.backends.contract import excerpt

WORD = re.compile(r"\bx[0-9]{1,30}\b")


def words(text: str) -> Iterator[Found]:
    return (Found("word", *match.span(), 1.0) for match in WORD.finditer(text))


def direct(text: str) -> list[tuple[int, int]]:
    return [match.span() for match in WORD.finditer(text)]


@given(st.integers(0, 3 * CHUNK))
def test_chunks_cover_a_text_and_overlap(length: int) -> None:
    text = "a" * length
    covered = 0
    for base, chunk in chunks(text):
        assert len(chunk) <= CHUNK
        assert base == 0 or base == covered - OVERLAP
        covered = base + len(chunk)
    assert covered == length


@pytest.mark.parametrize("edge", [CHUNK - OVERLAP, CHUNK, 2 * (CHUNK - OVERLAP), 2 * CHUNK - OVERLAP])
def test_what_lies_over_an_edge_is_found_once_and_whole(edge: int) -> None:
    for shift in range(-40, 40):
        text = " " * (edge + shift) + "x123456789" + " " * 3_000
        assert [(span.start, span.end) for span in spans_in(words, text)] == direct(text)


@given(st.lists(st.tuples(st.integers(1, 200), st.integers(1, 30)), max_size=80))
def test_chunks_find_what_the_whole_text_holds(places: list[tuple[int, int]]) -> None:
    text = "".join(" " * gap + "x" + "1" * digits for gap, digits in places)
    assert [(span.start, span.end) for span in spans_in(words, text)] == direct(text)


def test_no_chunk_makes_up_what_the_whole_text_does_not_hold() -> None:
    """The end of a number that is too long looks like one that is not, to a chunk that begins within it."""

    def numbers(text: str) -> Iterator[Found]:
        return (Found("number", *match.span(), 1.0) for match in re.finditer(r"\b[0-9]{9}\b", text))

    for shift in range(-20, 20):
        text = " " * (CHUNK - OVERLAP + shift) + "1" * 17 + " " * 3_000
        assert spans_in(numbers, text) == ()
        text = " " * (CHUNK - 10 + shift) + "1" * 17 + " " * 3_000
        assert spans_in(numbers, text) == ()


def test_what_lies_inside_something_surer_is_that() -> None:
    def find(_: str) -> Iterator[Found]:
        yield Found("phone", 5, 17, 0.4)
        yield Found("card", 0, 19, 1.0)
        yield Found("name", 0, 19, 1.0)
        yield Found("card", 2, 10, 1.0)

    assert spans_in(find, " " * 30) == (Span("card", 0, 19, 1.0), Span("name", 0, 19, 1.0))


def test_what_is_surer_than_what_lies_around_it_stays() -> None:
    def find(_: str) -> Iterator[Found]:
        yield Found("hint", 0, 20, 0.5)
        yield Found("key", 5, 15, 1.0)

    assert [span.category for span in spans_in(find, " " * 30)] == ["hint", "key"]


async def test_the_score_of_a_category_is_that_of_its_surest_span() -> None:
    def find(_: str) -> Iterator[Found]:
        yield Found("a", 0, 2, 0.4)
        yield Found("a", 5, 7, 0.6)

    backend = FindingBackend("finder", frozenset({"a"}), lambda: Finder(find, "1"))
    await backend.start()
    (judgement,) = await backend.judge([excerpt("some text")])
    assert (judgement.scores, judgement.flagged) == ({"a": 0.6}, {"a"})
    await backend.stop()


async def test_a_finder_that_breaks_is_a_failure_without_the_text() -> None:
    def find(text: str) -> Iterator[Found]:
        raise ValueError(f"cannot make sense of {text}")

    backend = FindingBackend("finder", frozenset({"a"}), lambda: Finder(find, "1"))
    with pytest.raises(BackendError, match="was not started"):
        await backend.judge([excerpt("private")])
    await backend.start()
    with pytest.raises(BackendError, match="finder failed with ValueError") as caught:
        await backend.judge([excerpt("private")])
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert "private" not in str(caught.value)
    await backend.stop()
