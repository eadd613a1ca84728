"""What is measured, and whether a difference is more than chance."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from services.moderation.backends.encoder.features import Floats


class Quality(NamedTuple):
    """Area under precision and recall (as average precision), and the true-positive rate where 1 % and 5 % of the
    harmless texts are found too."""

    auprc: float
    at_1: float
    at_5: float


class Difference(NamedTuple):
    """In AUPRC, over resampled texts: mean, and the bounds of which 5 % and 95 % of the samples lie below."""

    mean: float
    low: float
    high: float


def quality(scores: Floats, labels: Floats) -> Quality:
    """Of one output: [texts] both. Texts whose label is NaN do not count."""
    known = ~np.isnan(labels)
    scores, positive = scores[known], labels[known] == 1
    return Quality(_auprc(scores, positive), *(_found_at(scores, positive, share) for share in (0.01, 0.05)))


def paired_difference(
    ours: Sequence[Floats],
    theirs: Sequence[Floats],
    labels: Floats,
    samples: int = 2_000,
) -> Difference:
    """How much better `ours` is than `theirs`, both scored on the same texts, resampled with replacement.

    Several seeds' scores of one output [texts] each: their standardised means are compared.
    """
    known = np.flatnonzero(~np.isnan(labels))
    positive = labels[known] == 1
    chance = np.random.default_rng(0)
    times = chance.multinomial(len(known), np.full(len(known), 1 / len(known)), samples)
    one, other = (_resampled_auprc(_mean_standing(runs, known), positive, times) for runs in (ours, theirs))
    found = (one - other)[times[:, positive].any(1)]
    low, high = np.quantile(found, (0.05, 0.95))
    return Difference(float(np.mean(found)), float(low), float(high))


def table(names: Sequence[str], runs: Sequence[Floats], labels: Floats) -> list[str]:
    """A line per output: mean and deviation over the runs [texts, outputs]."""
    lines = [f"{'':18}{'AUPRC':>14}{'TPR at 1 %':>12}{'at 5 %':>8}{'positive':>10}{'known':>7}"]
    for output, name in enumerate(names):
        truth = labels[:, output]
        found = np.array([quality(run[:, output], truth) for run in runs])
        mean, deviation = found.mean(0), found.std(0)
        counts = f"{int((truth == 1).sum()):>10}{int((~np.isnan(truth)).sum()):>7}"
        lines.append(f"{name:18}{mean[0]:8.3f} ±{deviation[0]:.3f}{mean[1]:12.2f}{mean[2]:8.2f}{counts}")
    return lines


def _auprc(scores: Floats, positive: NDArray[np.bool_]) -> float:
    return float(average_precision_score(positive, scores))


def _found_at(scores: Floats, positive: NDArray[np.bool_], share: float) -> float:
    """The share of positives above all but `share` of the negatives."""
    harmless = np.sort(scores[~positive])[::-1]
    limit = harmless[min(int(share * len(harmless)), len(harmless) - 1)]
    return float((scores[positive] > limit).mean())


def _mean_standing(runs: Sequence[Floats], known: NDArray[np.intp]) -> Floats:
    """The mean over runs of z-scores: [known texts]."""
    standing: Floats = np.mean([(run[known] - run[known].mean()) / run[known].std() for run in runs], 0)
    return standing


def _resampled_auprc(scores: Floats, positive: NDArray[np.bool_], times: NDArray[np.int64]) -> NDArray[np.float64]:
    """Average precision of each sample, which holds each text so many `times` [samples, texts]: [samples]."""
    order = np.argsort(-scores, kind="stable")
    drawn = times[:, order]
    true = drawn * positive[order]
    precision = np.cumsum(true, 1) / np.maximum(np.cumsum(drawn, 1), 1)
    auprc: NDArray[np.float64] = (precision * true).sum(1) / np.maximum(true.sum(1), 1)
    return auprc
