"""Which texts are left out together."""

import numpy as np
from numpy.typing import NDArray

from services.moderation.backends.encoder.features import Floats


def stratified_folds(labels: Floats, number: int, seed: int) -> NDArray[np.intp]:
    """The fold [texts] of each text, so that every output has about as many positives, and known negatives, in each.

    `labels`: [texts, outputs], 1, 0 or NaN. Iterative stratification (Sechidis et al. 2011): the rarest kind of label
    is dealt out first, each text to the fold that lacks most of that kind.
    """
    kinds = np.concatenate([labels == 1, labels == 0], 1)
    chance = np.random.default_rng(seed)
    lacking = np.repeat(kinds.sum(0)[None] / number, number, 0)
    room = np.full(number, len(labels) / number)
    folds = np.full(len(labels), -1, np.intp)
    for kind in np.argsort(kinds.sum(0), kind="stable"):
        for text in chance.permutation(np.flatnonzero(kinds[:, kind] & (folds < 0))):
            _deal(text, _neediest(lacking[:, kind], room, chance), folds, lacking, room, kinds)
    for text in np.flatnonzero(folds < 0):
        _deal(text, _neediest(room, room, chance), folds, lacking, room, kinds)
    return folds


def _neediest(lacking: NDArray[np.float64], room: NDArray[np.float64], chance: np.random.Generator) -> int:
    """The fold that lacks most; among several the one with most room, then any."""
    order = np.lexsort((chance.random(len(room)), -room, -lacking))
    return int(order[0])


def _deal(
    text: np.intp,
    fold: int,
    folds: NDArray[np.intp],
    lacking: NDArray[np.float64],
    room: NDArray[np.float64],
    kinds: NDArray[np.bool_],
) -> None:
    folds[text] = fold
    lacking[fold] -= kinds[text]
    room[fold] -= 1
