"""Windows of word pieces: where they lie, and what text they cover."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.moderation.backends.encoder.weights import encoder_files
from services.moderation.backends.encoder.windows import SIZE, STRIDE, WordPieces, spans

PIECES = WordPieces(encoder_files().tokenizer)


@pytest.fixture
def pieces() -> WordPieces:
    return PIECES


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, [(0, 0)]),
        (1, [(0, 1)]),
        (126, [(0, 126)]),
        (127, [(0, 126), (64, 127)]),
        (190, [(0, 126), (64, 190)]),
        (191, [(0, 126), (64, 190), (128, 191)]),
    ],
)
def test_windows_begin_every_stride_until_one_reaches_the_end(count: int, expected: list[tuple[int, int]]) -> None:
    assert list(spans(count)) == expected


@given(st.integers(0, 5000), st.data())
def test_whatever_is_short_lies_whole_in_some_window(count: int, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, min(SIZE - STRIDE, count)))
    start = data.draw(st.integers(0, count - length))
    assert any(begin <= start and start + length <= end for begin, end in spans(count))


def test_a_text_of_one_window_is_its_text_with_marks_around_its_pieces(pieces: WordPieces) -> None:
    (window,) = pieces.windows("  hello world. ")
    assert window.text == "  hello world. "
    assert window.ids == (101, 7592, 2088, 1012, 102)


def test_no_text_is_one_window_without_pieces(pieces: WordPieces) -> None:
    assert pieces.windows("") == [((101, 102), "")]


def test_a_window_covers_the_text_of_its_pieces(pieces: WordPieces) -> None:
    words = [f"w{number:03d}" for number in range(100)]
    windows = pieces.windows(" ".join(words))
    assert len(windows) > 2
    assert all(len(window.ids) <= SIZE + 2 for window in windows)
    for window in windows:
        (again,) = pieces.windows(window.text)
        # A window may begin within a word; from its second word on the pieces are the same.
        assert again.ids[-40:] == window.ids[-40:]
    assert windows[0].text.startswith("w000")
    assert windows[-1].text.endswith("w099")


@settings(max_examples=50)
@given(st.text(st.characters(exclude_categories=[]), max_size=400))
def test_any_text_can_be_cut_and_nothing_of_it_is_left_out(text: str) -> None:
    windows = PIECES.windows(text)
    assert windows[0].text == text.encode("utf-8", "replace").decode()[: len(windows[0].text)]
    assert len(windows[-1].text) <= len(text)
    assert sum(len(window.text) for window in windows) >= len(text)


def test_a_lone_surrogate_is_a_character_like_another(pieces: WordPieces) -> None:
    (window,) = pieces.windows("a\ud800b")
    assert window.text == "a?b"
