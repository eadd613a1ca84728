"""Texts are dealt out so that each fold has its share of everything."""

import numpy as np

from services.moderation.training.folds import stratified_folds


def labels(seed: int = 0) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """300 texts; three labels of 20 %, 8 % and 3 %, each unknown for a third."""
    chance = np.random.default_rng(seed)
    found = (chance.random((300, 3)) < (0.2, 0.08, 0.03)).astype(np.float32)
    found[chance.random((300, 3)) < 1 / 3] = np.nan
    return found


def test_each_text_is_in_one_fold_and_folds_are_alike_in_size() -> None:
    folds = stratified_folds(labels(), 5, 0)
    assert set(folds) == set(range(5))
    assert np.abs(np.bincount(folds) - 60).max() <= 3


def test_each_fold_has_its_share_of_every_positive() -> None:
    truth = labels()
    folds = stratified_folds(truth, 5, 0)
    for label in truth.T:
        assert np.ptp(np.bincount(folds[label == 1], minlength=5)) <= 2


def test_a_seed_draws_the_same_folds_and_another_one_others() -> None:
    truth = labels()
    assert np.array_equal(stratified_folds(truth, 5, 3), stratified_folds(truth, 5, 3))
    assert not np.array_equal(stratified_folds(truth, 5, 3), stratified_folds(truth, 5, 4))
