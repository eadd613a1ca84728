"""How well scores tell labels apart, and how far they are probabilities. Pure; numpy arrays in, numbers out.

`truth` is bool, `scores` any finite numbers, one of each per text. Equal scores are never told apart: a threshold takes
all of them or none.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Truth = NDArray[np.bool_]
Scores = NDArray[np.float64]
Weights = NDArray[Any]
Measure = Callable[["Ranking", Weights], float]

BINS = 10
CONFIDENCE = 0.95


class Ranking:
    """Texts in falling order of their scores, so that many measures, weighted anew, need one sort."""

    def __init__(self, truth: Truth, scores: Scores) -> None:
        self._order = np.argsort(-scores, kind="stable")
        self._truth = truth[self._order]
        ranked = scores[self._order]
        # The last place of each run of equal scores: where a threshold can lie.
        self._steps = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)) if len(ranked) else np.zeros(0, int)

    def counts(self, weights: Weights) -> tuple[Weights, Weights]:
        """True and false positives at each threshold, from the highest on."""
        weights = weights[self._order]
        true, false = np.cumsum(weights * self._truth), np.cumsum(weights * ~self._truth)
        return true[self._steps], false[self._steps]


def average_precision(ranking: Ranking, weights: Weights) -> float:
    """Area under precision over recall, by steps: sum of precision times the gain in recall at each threshold. NaN
    without positives."""
    true, false = ranking.counts(weights)
    if not len(true) or true[-1] == 0:
        return math.nan
    gained = np.diff(true, prepend=0)
    taken = true + false
    return float((gained[taken > 0] * (true[taken > 0] / taken[taken > 0])).sum() / true[-1])


def true_positive_rate_at(limit: float) -> Measure:
    """The highest true-positive rate of a threshold at which at most `limit` of the negatives are false positives."""

    def measure(ranking: Ranking, weights: Weights) -> float:
        true, false = ranking.counts(weights)
        if not len(true) or true[-1] == 0 or false[-1] == 0:
            return math.nan
        allowed = true[false <= limit * false[-1]]
        return float(allowed.max(initial=0) / true[-1])

    return measure


@dataclass(frozen=True, slots=True)
class Interval:
    """A measure on all texts, and where it lies in 95 of 100 samples drawn from them."""

    value: float
    low: float
    high: float


def bootstrap(ranking: Ranking, texts: int, measures: dict[str, Measure], draws: int, seed: int) -> dict[str, Interval]:
    """Percentile intervals: `draws` samples of the texts with replacement, the same ones for all measures. A sample
    without positives or without negatives says nothing and is left out."""
    random = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(draws):
        weights = np.bincount(random.integers(0, texts, texts), minlength=texts)
        for name, measure in measures.items():
            drawn[name].append(measure(ranking, weights))
    ones = np.ones(texts, int)
    return {name: _interval(measure(ranking, ones), drawn[name]) for name, measure in measures.items()}


def _interval(value: float, drawn: list[float]) -> Interval:
    known = [one for one in drawn if not math.isnan(one)]
    if not known:
        return Interval(value, math.nan, math.nan)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


@dataclass(frozen=True, slots=True)
class Confusion:
    """Texts by what they are and what was decided."""

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int

    @classmethod
    def of(cls, truth: Truth, decided: Truth) -> "Confusion":
        """`decided`: which texts were taken for positive."""
        counts = [truth & decided, ~truth & decided, truth & ~decided, ~truth & ~decided]
        return cls(*(int(count.sum()) for count in counts))

    @property
    def precision(self) -> float:
        """NaN where nothing was taken for positive."""
        return _share(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        return _share(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def false_positive_rate(self) -> float:
        return _share(self.false_positives, self.false_positives + self.true_negatives)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


@dataclass(frozen=True, slots=True)
class Bin:
    """Texts whose scores lie together: their mean score, the share that is positive, and how many they are."""

    score: float
    share: float
    texts: int


def reliability(truth: Truth, scores: Scores) -> list[Bin]:
    """BINS bins of equal width over [0, 1], without the empty ones; in a calibrated one score and share agree."""
    places = np.minimum((scores * BINS).astype(int), BINS - 1)
    return [
        Bin(float(scores[inside].mean()), float(truth[inside].mean()), int(inside.sum()))
        for inside in (places == place for place in range(BINS))
        if inside.any()
    ]


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """The mean distance of score and share, weighted by texts (Naeini et al. 2015). NaN without texts."""
    texts = sum(each.texts for each in bins)
    return sum(abs(each.score - each.share) * each.texts for each in bins) / texts if texts else math.nan
