"""A head's arrays from labelled texts: support vector machines over the sum of kernels of features.py."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from sklearn.svm import SVC

from services.moderation.backends.encoder.features import (
    KERNELS,
    TERMS_WEIGHT,
    TOTAL_WEIGHT,
    Axes,
    Floats,
    Scale,
    Terms,
    language_factor,
)
from services.moderation.backends.encoder.head import FORMAT, OUTPUTS
from services.moderation.training.reading import Whole

RANK = 128
"""Axes per kernel: 96 give the same quality as all 1,920."""
_PENALTY = 2.0
_LEAST_TEXTS = 2

Arrays = Mapping[str, NDArray[Any]]


class Space(NamedTuple):
    """Where texts lie: what is learnt from texts without their labels."""

    scale: Scale
    axes: tuple[Axes, ...]
    terms: Terms

    @classmethod
    def of(cls, texts: Whole, rank: int = RANK) -> "Space":
        """Scaled to `texts`."""
        scale = Scale.of(texts.pooled, texts.lexical)
        vectors = scale.vectors(texts.pooled, texts.lexical)
        axes = tuple(principal_axes(each, rank) for each in vectors)
        return cls(scale, axes, Terms.of(texts.texts, _LEAST_TEXTS))

    def places(self, texts: Whole) -> tuple[tuple[Floats, Floats], ...]:
        """For each of KERNELS: coordinates [n, rank] and rests [n], as precise as the file keeps them."""
        vectors = self.scale.vectors(texts.pooled, texts.lexical)
        placed = [axes.place(each) for axes, each in zip(self.axes, vectors, strict=True)]
        return tuple((_half(coordinates), _half(rests)) for coordinates, rests in placed)


def fit(texts: Whole, labels: Floats, weights: Floats) -> Arrays:
    """The arrays of a head, whose calibration leaves margins as they are.

    `labels`: [texts, outputs], NaN where unknown: such a text is left out of that output's machine (the masked loss).
    `weights`: [texts].
    """
    space = Space.of(texts)
    places, terms = space.places(texts), space.terms.matrix(texts.texts)
    kernel = _kernel(places, terms, texts.english)
    machines = [_machine(kernel, labels[:, output], weights) for output in range(len(OUTPUTS))]
    support = np.stack([machine.support for machine in machines], 1)
    used = np.flatnonzero(np.abs(support).any(1))
    arrays: dict[str, NDArray[Any]] = {
        **dict(zip(Scale._fields, space.scale, strict=True)),
        "format": np.array(FORMAT),
        "terms": space.terms.hashes,
        "inverse_frequency": space.terms.inverse_frequency,
        "term_weights": (terms.T @ support * (TERMS_WEIGHT / TOTAL_WEIGHT)).astype(np.float16),
        "english": texts.english[used].astype(np.float16),
        "weights": support[used],
        "bias": np.array([machine.bias for machine in machines], np.float32),
        "calibration": plain_calibration(),
    }
    for each, axes, (coordinates, rests) in zip(KERNELS, space.axes, places, strict=True):
        arrays[f"{each.name}.centre"] = axes.centre
        arrays[f"{each.name}.directions"] = axes.directions.astype(np.float16)
        arrays[f"{each.name}.points"] = coordinates[used].astype(np.float16)
        arrays[f"{each.name}.rests"] = rests[used].astype(np.float16)
    return arrays


def principal_axes(vectors: Floats, rank: int) -> Axes:
    """The first `rank` of `vectors` [n, d], or all of them where there are fewer."""
    centre = vectors.mean(0)
    spread = (vectors - centre).astype(np.float64)
    width = spread.shape[1]
    first = max(0, width - rank)  # ascending by how much they explain
    _, directions = eigh(spread.T @ spread, subset_by_index=(first, width - 1))
    return Axes(centre, np.ascontiguousarray(directions[:, ::-1], np.float32))


def plain_calibration() -> Floats:
    """Log-odds are the margins: [outputs + 1, 2]."""
    return np.array([(1.0, 0.0)] * (len(OUTPUTS) + 1), np.float32)


class _Machine(NamedTuple):
    """`support`: what each training text adds, times its likeness: [texts], most of them 0."""

    support: Floats
    bias: float


def _machine(kernel: Floats, labels: Floats, weights: Floats) -> _Machine:
    """Both classes weigh the same in sum, however rare one is."""
    known = np.flatnonzero(~np.isnan(labels))
    positive = labels[known] == 1
    share = float((weights[known] * positive).sum() / weights[known].sum())
    if not 0 < share < 1:
        raise ValueError(f"a machine needs texts of both classes, and {len(known)} texts are all of one")
    balanced = weights[known] * np.where(positive, 0.5 / share, 0.5 / (1 - share))
    machine = SVC(C=_PENALTY, kernel="precomputed", cache_size=300)
    machine.fit(kernel[np.ix_(known, known)], positive, sample_weight=balanced)
    support = np.zeros(len(labels), np.float32)
    support[known[machine.support_]] = machine.dual_coef_[0]
    return _Machine(support, float(machine.intercept_[0]))


def _kernel(places: tuple[tuple[Floats, Floats], ...], terms: Floats, english: Floats) -> Floats:
    """Likeness of every text to every other: [texts, texts]."""
    total = np.zeros((len(english), len(english)), np.float32)
    for kernel, (coordinates, rests) in zip(KERNELS, places, strict=True):
        square = np.square(coordinates).sum(1) + rests
        distance = np.maximum(square[:, None] + square[None] - 2 * coordinates @ coordinates.T, 0)
        np.fill_diagonal(distance, 0)  # a text's rest is the same as its own
        total += np.float32(kernel.weight / TOTAL_WEIGHT) * np.exp(np.float32(-kernel.width) * distance)
    total *= language_factor(english[:, None], english[None])
    whole: Floats = total + np.float32(TERMS_WEIGHT / TOTAL_WEIGHT) * (terms @ terms.T)
    return whole


def _half(values: Floats) -> Floats:
    return values.astype(np.float16).astype(np.float32)
