"""Cross-validation: every labelled text is judged by a head that never saw it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from services.moderation.backends.encoder.features import Floats
from services.moderation.backends.encoder.head import Head
from services.moderation.training.fitting import fit
from services.moderation.training.folds import stratified_folds
from services.moderation.training.reading import Say, Whole, Windows, highest

FOLDS = 5


class Texts(NamedTuple):
    """What a head is trained on: the first `measured` texts are the labelled ones, the rest only helps.

    `labels`: [texts, outputs]; `weights`: [texts]; `windows` are those of the labelled texts.
    """

    whole: Whole
    windows: Windows
    labels: Floats
    weights: Floats
    measured: int

    @property
    def truth(self) -> Floats:
        """The labels of what is measured."""
        return self.labels[: self.measured]


class Run(NamedTuple):
    """One cross-validation: the fold of each labelled text, and margins by heads that did not see it: of the windows
    [windows, outputs] and the highest of each text [texts, outputs]."""

    folds: NDArray[np.intp]
    windows: Floats
    margins: Floats


def rehearse(texts: Texts, seeds: Sequence[int], say: Say) -> list[Run]:
    """A run per seed, which draws the folds."""
    return [_run(texts, seed, say) for seed in seeds]


def _run(texts: Texts, seed: int, say: Say) -> Run:
    folds = stratified_folds(texts.truth, FOLDS, seed)
    margins: Floats | None = None
    for fold in range(FOLDS):
        unseen = np.flatnonzero(folds == fold)
        found = _judged(texts, unseen)
        margins = np.empty((len(texts.windows.owner), found.shape[1]), np.float32) if margins is None else margins
        margins[np.isin(texts.windows.owner, unseen)] = found
        say(f"seed {seed}, fold {fold + 1} of {FOLDS}: judged {len(unseen)} texts unseen")
    assert margins is not None
    return Run(folds, margins, highest(margins, texts.windows.owner, texts.measured))


def _judged(texts: Texts, unseen: NDArray[np.intp]) -> Floats:
    """The margins of the windows of `unseen`, by a head that was fitted to all other texts."""
    seen = np.setdiff1d(np.arange(len(texts.labels)), unseen)
    head = Head(fit(texts.whole.of(seen), texts.labels[seen], texts.weights[seen]), "rehearsal")
    windows = texts.windows.of(unseen)
    return head.margins(windows.pooled, windows.texts)
