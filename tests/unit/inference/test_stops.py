"""Where stop strings end an answer, held against the plain definition on the whole text."""

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.inference.stops import StopMatcher

# few letters, so that stop strings occur, overlap and nearly occur; one outside the basic plane, one that combines
LETTERS = "ab😀\u0301"
texts = st.text(LETTERS, max_size=40)
stop_lists = st.lists(st.text(LETTERS, min_size=1, max_size=6), max_size=4)


def plain(text: str, stops: list[str]) -> tuple[str, bool]:
    """The definition: the first position at which any stop string is complete ends it; the longest of several."""
    for end in range(1, len(text) + 1):
        if complete := [stop for stop in stops if text[:end].endswith(stop)]:
            return text[: end - max(map(len, complete))], True
    return text, False


def longest_beginning(text: str, stops: list[str]) -> str:
    """The longest suffix of `text` that a stop string begins with."""
    return next(text[n:] for n in range(len(text) + 1) if any(stop.startswith(text[n:]) for stop in [*stops, ""]))


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    ends = sorted({min(cut, len(text)) for cut in cuts})
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]


@given(text=texts, stops=stop_lists, cuts=st.lists(st.integers(0, 40), max_size=8))
@example(text="abab😀", stops=["ab😀", "b"], cuts=[1])
@settings(max_examples=1_500)
def test_any_cut_into_pieces_ends_as_the_whole_text_does(text: str, stops: list[str], cuts: list[int]) -> None:
    matcher = StopMatcher(stops)
    shown = "".join(matcher.push(piece) for piece in pieces_of(text, cuts)) + matcher.flush()
    assert (shown, matcher.stopped) == plain(text, stops)


@given(text=texts, stops=stop_lists)
@settings(max_examples=1_000)
def test_exactly_what_may_begin_a_stop_string_is_held_back(text: str, stops: list[str]) -> None:
    """No more, for the reader waits; no less, for it cannot be taken back."""
    matcher = StopMatcher(stops)
    shown = ""
    for position, character in enumerate(text, start=1):
        shown += matcher.push(character)
        if matcher.stopped:
            assert shown == plain(text, stops)[0]
            return
        assert matcher.held == longest_beginning(text[:position], stops)
        assert shown + matcher.held == text[:position]


@given(text=texts, stops=stop_lists, more=texts)
@settings(max_examples=300)
def test_nothing_comes_after_the_end(text: str, stops: list[str], more: str) -> None:
    matcher = StopMatcher(stops)
    matcher.push(text)
    if matcher.stopped:
        assert matcher.push(more) + matcher.flush() == ""
        assert matcher.held == ""


@pytest.mark.parametrize(
    ("text", "stops", "shown"),
    [
        ("one two three", ["two"], "one "),
        ("one two three", ["three", "two"], "one "),
        ("xabcd", ["bc", "abcd"], "xa"),  # complete first, though the other began before it
        ("xabc", ["c", "abc", "bc"], "x"),  # complete together: the longest
        ("aaab", ["aab"], "a"),
        ("abababc", ["ababc"], "ab"),
        ("cafe\u0301s", ["\u0301"], "cafe"),
        ("a🦜🦜b", ["🦜b"], "a🦜"),
        ("no end", [], "no end"),
        ("no end", [""], "no end"),
        ("", ["x"], ""),
        ("stop", ["stop"], ""),
        ("nearly sto", ["stop"], "nearly sto"),
    ],
)
def test_known_ends(text: str, stops: list[str], shown: str) -> None:
    for cut in range(len(text) + 1):
        matcher = StopMatcher(stops)
        assert matcher.push(text[:cut]) + matcher.push(text[cut:]) + matcher.flush() == shown


def seconds_for(length: int) -> float:
    """The worst known texts: a border of every length is tried and fails, again and again."""
    matcher = StopMatcher(["a" * length + "b", "a" * (length // 2) + "c" + "a" * (length // 2)])
    started_s = time.process_time()
    for _ in range(4):
        matcher.push("a" * (length - 1) + "c")
    return time.process_time() - started_s


def test_hostile_stop_strings_take_linear_time() -> None:
    """Trying anew at every position would take 100 times as long for 10 times the length."""
    short = min(seconds_for(2_000) for _ in range(5))
    long = min(seconds_for(20_000) for _ in range(3))
    assert long < 30 * short
