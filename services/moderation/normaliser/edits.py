"""Rewriting of a text that remembers where everything comes from."""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import NamedTuple


class Edit(NamedTuple):
    """`text` stands for `[start, end)` of the text before. One as long as what it replaces does so letter by letter; of
    any other, each code point comes from the whole of `[start, end)`."""

    start: int
    end: int
    text: str


def rewrite(text: str, edits: Iterable[Edit]) -> str:
    """`text` with the edits, which are in order and do not overlap, applied."""
    parts: list[str] = []
    done = 0
    for edit in edits:
        parts += (text[done : edit.start], edit.text)
        done = edit.end
    parts.append(text[done:])
    return "".join(parts)


class Normalised:
    """A raw text, its normal form `text`, and which raw code points each code point of that comes from.

    `moves` and then `layers` lead from the raw text to `text`: the edits of each step; those that keep the length need
    not be among them. Places are worked out when somebody asks: most texts hold nothing to point at.
    """

    def __init__(
        self, raw: str, text: str, moves: Callable[[str], Sequence[Edit]], layers: Sequence[Sequence[Edit]] = ()
    ) -> None:
        self.raw = raw
        self.text = text
        self._moves = moves
        self._layers = layers

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Where in the raw text `[start, end)` of the normal form (not empty) comes from."""
        return self.starts[start], self.ends[end - 1]

    @property
    def starts(self) -> Sequence[int]:
        """Of each code point of `text`: where its raw `[start, end)` begins. Never decreases."""
        return self._places[0]

    @property
    def ends(self) -> Sequence[int]:
        """Of each code point of `text`: where its raw `[start, end)` ends. Never decreases."""
        return self._places[1]

    @cached_property
    def _places(self) -> tuple[Sequence[int], Sequence[int]]:
        starts: Sequence[int] = range(len(self.raw))
        ends: Sequence[int] = range(1, len(self.raw) + 1)
        for edits in (self._moves(self.raw), *self._layers):
            starts, ends = _moved(starts, ends, edits)
        return starts, ends


def _moved(starts: Sequence[int], ends: Sequence[int], edits: Sequence[Edit]) -> tuple[Sequence[int], Sequence[int]]:
    """The places of the text before the edits, as those of the text after them."""
    if not edits:
        return starts, ends
    new_starts: list[int] = []
    new_ends: list[int] = []
    done = 0
    for start, end, text in edits:
        if len(text) == end - start:
            continue
        new_starts += [*starts[done:start], *[starts[start]] * len(text)]
        new_ends += [*ends[done:start], *[ends[end - 1]] * len(text)]
        done = end
    return [*new_starts, *starts[done:]], [*new_ends, *ends[done:]]
