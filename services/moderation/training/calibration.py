"""Margins into probabilities, by what texts that a head never saw turned out to be (Platt 1999), and thresholds."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from services.moderation.backends.encoder.features import Floats
from services.moderation.backends.encoder.head import OUTPUTS, mixed_any
from services.moderation.training.reading import highest

FLAGGED_HARMLESS = 0.05
CUT_HARMLESS = 0.005


class Thresholds(NamedTuple):
    """Probabilities that so many harmless texts of the training data reach."""

    flag: float
    cut: float


def calibrate(margins: Floats, windows: Floats, owner: NDArray[np.intp], labels: Floats) -> Floats:
    """The head's `calibration` [outputs + 1, 2].

    `margins`: the highest of each text [texts, outputs]; `windows`: those that they are the highest of
    [windows, outputs], of the texts `owner` [windows]; `labels`: [texts, outputs].
    """
    single = [_platt(margins[:, output], labels[:, output]) for output in range(len(OUTPUTS))]
    slopes, offsets = np.array(single, np.float32).T
    mixed = mixed_any(windows * slopes + offsets)
    any_highest = highest(mixed[:, None], owner, len(margins))[:, 0]
    return np.array([*single, _platt(any_highest, labels[:, -1])], np.float32)


def thresholds(probabilities: Floats, labels: Floats) -> list[Thresholds]:
    """For each output, from unseen texts: [texts, outputs] both."""
    found = []
    for scores, truth in zip(probabilities.T, labels.T, strict=True):
        harmless = scores[truth == 0]
        flag, cut = (float(np.quantile(harmless, 1 - share)) for share in (FLAGGED_HARMLESS, CUT_HARMLESS))
        found.append(Thresholds(flag, cut))
    return found


def _platt(scores: Floats, labels: Floats) -> tuple[float, float]:
    """Slope and offset of the log-odds, over the texts whose label is known."""
    known = ~np.isnan(labels)
    model = LogisticRegression(C=1e3).fit(scores[known, None], labels[known] == 1)
    return float(model.coef_[0, 0]), float(model.intercept_[0])
