"""From a window's hidden states and words to the places at which the head compares it with what it was trained on.

Training and serving share this module, so that what is trained is what runs. numpy only; one window at a time, so that
a window's result is the same, to the bit, whatever else is judged with it (products of several rows round otherwise).
"""

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

LAYERS = (2, 3, 4, 5, 6)
"""Hidden states that are read: the last for what a text is about, the middle ones for how it is said."""
LANGUAGE_WIDTH = 4.0
"""How fast likeness falls with the difference in `Lexicon.english`: a text in another language is hardly like any that
the head knows, and is left near the base rate instead of being judged by what English texts it looks like."""
TERMS_WEIGHT = 2.0
_CLIP = 4.0
_TOKEN = re.compile(r"\b\w\w+\b")


class Kernel(NamedTuple):
    """exp(-width * squared distance) between the vectors named `name`, and its weight in the mean of all kernels."""

    name: str
    width: float
    weight: float


KERNELS = (Kernel("layers", 1.0, 1.0), Kernel("last", 1.0, 1.0), Kernel("plain", 1.5, 2.0), Kernel("lexicon", 0.7, 1.0))
TOTAL_WEIGHT = TERMS_WEIGHT + sum(kernel.weight for kernel in KERNELS)


class Scale(NamedTuple):
    """Means and deviations of the training texts: of hidden states [layers, 384], of lexical features [size]."""

    mean: Floats
    deviation: Floats
    lexical_mean: Floats
    lexical_deviation: Floats

    @classmethod
    def of(cls, pooled: Floats, lexical: Floats) -> "Scale":
        """`pooled`: [n, layers, 384], `lexical`: [n, size]."""
        return cls(pooled.mean(0), pooled.std(0) + 1e-6, lexical.mean(0), lexical.std(0) + 1e-6)

    def vectors(self, pooled: Floats, lexical: Floats) -> tuple[Floats, ...]:
        """What each of KERNELS compares, in their order: [n, its length]. The first three have length 1."""
        layers = _unit((pooled - self.mean) / self.deviation)
        words = np.clip((lexical - self.lexical_mean) / self.lexical_deviation, -_CLIP, _CLIP)
        return (
            (layers / np.float32(len(LAYERS) ** 0.5)).reshape(len(layers), -1),
            layers[:, -1],
            _unit(pooled[:, -1]),
            (words / np.float32(lexical.shape[1] ** 0.5)).astype(np.float32),
        )


class Axes(NamedTuple):
    """The directions in which the training texts differ most: `centre` [d], `directions` [d, r], orthonormal."""

    centre: Floats
    directions: Floats

    def place(self, vectors: Floats) -> tuple[Floats, Floats]:
        """Coordinates [n, r], and the squared length [n] of what they leave out.

        What two texts have outside of the axes is taken to be orthogonal: their squared distance is that of their
        coordinates and both rests.
        """
        spread: Floats = vectors - self.centre
        coordinates: Floats = spread @ self.directions
        rest = np.maximum(0, np.square(spread).sum(1) - np.square(coordinates).sum(1))
        return coordinates, rest.astype(np.float32)


class Terms:
    """Words and pairs of neighbouring words, known by a hash, with the inverse frequency of each: TF-IDF with
    logarithmic counts and length 1 (as scikit-learn's with sublinear_tf and smooth_idf). No training word is kept."""

    def __init__(self, hashes: NDArray[np.uint32], inverse_frequency: Floats) -> None:
        """`hashes` ascending; both [terms]."""
        self.hashes = hashes
        self.inverse_frequency = inverse_frequency

    @classmethod
    def of(cls, texts: Iterable[str], least_texts: int = 2) -> "Terms":
        """Those that occur in at least so many of `texts`."""
        frequency: Counter[int] = Counter()
        number = 0
        for text in texts:
            number += 1
            frequency.update(_terms(text).keys())
        known = sorted(term for term, count in frequency.items() if count >= least_texts)
        counts = np.array([frequency[term] for term in known], np.float64)
        inverse = np.log((1 + number) / (1 + counts)) + 1
        return cls(np.array(known, np.uint32), inverse.astype(np.float32))

    def of_text(self, text: str) -> tuple[NDArray[np.intp], Floats]:
        """The places of its known terms, and their values: a vector of length 1 (or empty)."""
        counts = _terms(text)
        if not counts or not len(self.hashes):
            return np.zeros(0, np.intp), np.zeros(0, np.float32)
        terms = np.fromiter(counts.keys(), np.uint32, len(counts))
        times = np.fromiter(counts.values(), np.float64, len(counts))
        order = np.argsort(terms)
        terms, times = terms[order], times[order]
        places = np.minimum(np.searchsorted(self.hashes, terms), len(self.hashes) - 1)
        known = self.hashes[places] == terms
        places = places[known]
        values = (1 + np.log(times[known])).astype(np.float32) * self.inverse_frequency[places]
        return places, values / np.float32(np.sqrt(np.square(values).sum()) or 1)

    def matrix(self, texts: Sequence[str]) -> Floats:
        """[texts, terms]."""
        found = np.zeros((len(texts), len(self.hashes)), np.float32)
        for row, text in enumerate(texts):
            places, values = self.of_text(text)
            found[row, places] = values
        return found


def language_factor(one: Floats, other: Floats) -> Floats:
    """What likeness is multiplied with for two values of `Lexicon.english`; broadcasts."""
    factor: Floats = np.exp(np.float32(-LANGUAGE_WIDTH) * np.square(one - other))
    return factor


def _terms(text: str) -> Counter[int]:
    """How often each word and pair of words occurs, by hash."""
    words = _TOKEN.findall(text.lower())
    pairs = (f"{one} {other}" for one, other in pairwise(words))
    return Counter(zlib.crc32(term.encode("utf-8", "replace")) for term in (*words, *pairs))


def _unit(vectors: Floats) -> Floats:
    """Each of length 1, along the last axis."""
    length: Floats = np.sqrt(np.square(vectors).sum(-1, keepdims=True)) + np.float32(1e-9)
    return vectors / length
