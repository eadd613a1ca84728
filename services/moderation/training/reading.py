"""Examples as the runtime sees them: normalised, cut into windows, each with its states and its words."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from services.moderation.backends.encoder.features import Floats
from services.moderation.backends.encoder.lexicon import Lexicon, built_in

_AT_ONCE = 256

Say = Callable[[str], None]
"""Told how far the work is."""


class Cutter(Protocol):
    """Cuts a text into windows of (ids, text): WordPieces."""

    def windows(self, text: str) -> Sequence[tuple[tuple[int, ...], str]]:
        """At least one."""
        ...


class Pooler(Protocol):
    """The mean hidden states of windows: Encoder."""

    def pooled(self, windows: Sequence[Sequence[int]]) -> Floats:
        """[windows, layers, 384]."""
        ...


class Windows(NamedTuple):
    """`owner`: the number of the text that each is a window of."""

    pooled: Floats
    lexical: Floats
    texts: list[str]
    owner: NDArray[np.intp]

    def of(self, chosen: NDArray[np.intp]) -> "Windows":
        """Those of the texts `chosen` (ascending), whose owners are numbered anew."""
        places = np.flatnonzero(np.isin(self.owner, chosen))
        texts = [self.texts[place] for place in places]
        owner = np.searchsorted(chosen, self.owner[places])
        return Windows(self.pooled[places], self.lexical[places], texts, owner)


class Whole(NamedTuple):
    """Whole texts, the means over their windows: what machines are fitted to. `english` as Lexicon.english."""

    pooled: Floats
    lexical: Floats
    english: Floats
    texts: list[str]

    def of(self, chosen: NDArray[np.intp]) -> "Whole":
        """Those numbers."""
        texts = [self.texts[number] for number in chosen]
        return Whole(self.pooled[chosen], self.lexical[chosen], self.english[chosen], texts)


def read_windows(texts: Sequence[str], cutter: Cutter, pooler: Pooler, say: Say) -> Windows:
    """All windows of `texts` (normalised), in order."""
    cut = [cutter.windows(text) for text in texts]
    owner = np.array([number for number, windows in enumerate(cut) for _ in windows], np.intp)
    windows = [window for some in cut for window in some]
    pooled: Floats | None = None
    # Alike lengths together: less padding. Each goes back to its place.
    order = sorted(range(len(windows)), key=lambda place: len(windows[place][0]))
    for start in range(0, len(order), _AT_ONCE):
        places = order[start : start + _AT_ONCE]
        states = pooler.pooled([windows[place][0] for place in places])
        pooled = np.empty((len(windows), *states.shape[1:]), np.float32) if pooled is None else pooled
        pooled[places] = states
        say(f"encoded {start + len(places):,} of {len(windows):,} windows")
    if pooled is None:
        raise ValueError("there is no text to read")
    lexicon = built_in()
    lexical = np.stack([lexicon.features(text) for _, text in windows])
    return Windows(pooled, lexical, [text for _, text in windows], owner)


def whole_texts(windows: Windows, texts: Sequence[str], lexicon: Lexicon | None = None) -> Whole:
    """The texts that `windows` are the windows of."""
    lexicon = lexicon or built_in()
    counts = np.bincount(windows.owner, minlength=len(texts)).astype(np.float32)
    english = np.array([lexicon.english(text) for text in texts], np.float32)
    pooled, lexical = (_means(values, windows.owner, counts) for values in (windows.pooled, windows.lexical))
    return Whole(pooled, lexical, english, list(texts))


def highest(scores: Floats, owner: NDArray[np.intp], texts: int) -> Floats:
    """The maximum over each text's windows: [windows, outputs] → [texts, outputs]."""
    found = np.full((texts, scores.shape[1]), -np.inf, np.float32)
    np.maximum.at(found, owner, scores)
    return found


def _means(values: Floats, owner: NDArray[np.intp], counts: Floats) -> Floats:
    sums = np.zeros((len(counts), *values.shape[1:]), np.float32)
    np.add.at(sums, owner, values)
    return np.divide(sums, counts.reshape(-1, *[1] * (values.ndim - 1)), dtype=np.float32)
