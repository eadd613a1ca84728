"""A text as the encoder reads it: word pieces, in windows of fixed size at fixed places."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

SIZE = 126
"""Word pieces of a window: 128 positions with the two marks around them, what the encoder was trained on."""
STRIDE = 64
"""A window begins every so many pieces: what straddles the end of one lies whole in the next, up to 62 pieces."""


class PieceWindow(NamedTuple):
    """`ids`: its pieces between the marks `[CLS]` and `[SEP]`; `text`: the stretch of the text that they cover."""

    ids: tuple[int, ...]
    text: str


class WordPieces:
    """Cuts texts into word pieces by a `tokenizer.json`. Threads may share it."""

    def __init__(self, file: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(file))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._first = self._mark("[CLS]")
        self._last = self._mark("[SEP]")

    def _mark(self, name: str) -> int:
        found = self._tokenizer.token_to_id(name)
        if found is None:
            raise ValueError(f"the tokenizer has no {name}: it is none for a BERT encoder")
        return int(found)

    def windows(self, text: str) -> list[PieceWindow]:
        """All windows of `text`, in order: at least one, as many as it takes."""
        # A lone surrogate is no character and the tokenizer refuses it; "?" takes as many places.
        text = text.encode("utf-8", "replace").decode()
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        ids, offsets = encoding.ids, encoding.offsets
        return [
            PieceWindow((self._first, *ids[start:end], self._last), _covered(text, offsets, start, end))
            for start, end in spans(len(ids))
        ]


def spans(pieces: int) -> Iterator[tuple[int, int]]:
    """Where the windows of so many pieces begin and end: every STRIDE, until one reaches the end."""
    start = 0
    while start + SIZE < pieces:
        yield start, start + SIZE
        start += STRIDE
    yield start, pieces


def _covered(text: str, offsets: Sequence[tuple[int, int]], start: int, end: int) -> str:
    """The text of the pieces [start, end), with what no piece stands for at either end of the whole."""
    begin = offsets[start][0] if start else 0
    return text[begin : offsets[end - 1][1]] if end < len(offsets) else text[begin:]
