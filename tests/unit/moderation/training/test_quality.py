"""What is measured, on scores whose quality is known."""

import numpy as np
import pytest

from services.moderation.backends.encoder.head import OUTPUTS, calibrated
from services.moderation.training.calibration import calibrate, thresholds
from services.moderation.training.quality import paired_difference, quality, table

CHANCE = np.random.default_rng(0)
TRUTH = (CHANCE.random(1_000) < 0.2).astype(np.float32)
GOOD = (TRUTH + CHANCE.normal(0, 0.3, 1_000)).astype(np.float32)
POOR = (TRUTH + CHANCE.normal(0, 3, 1_000)).astype(np.float32)


def test_a_perfect_order_is_found_whole() -> None:
    assert quality(TRUTH, TRUTH) == (1, 1, 1)


def test_texts_of_unknown_label_do_not_count() -> None:
    unknown = np.where(np.arange(1_000) < 500, TRUTH, np.nan).astype(np.float32)
    assert quality(GOOD, unknown) == quality(GOOD[:500], TRUTH[:500])


def test_the_rate_is_that_above_the_share_of_harmless_texts() -> None:
    scores = np.array([*range(100), 98.5, 94.5, 10.5], np.float32)
    truth = np.array([0] * 100 + [1] * 3, np.float32)
    assert quality(scores, truth)[1:] == pytest.approx((1 / 3, 2 / 3))


def test_a_better_score_is_better_beyond_chance() -> None:
    mean, low, high = paired_difference([GOOD], [POOR], TRUTH, samples=200)
    assert 0 < low < mean < high
    mean, low, high = paired_difference([GOOD], [GOOD], TRUTH, samples=50)
    assert low == mean == high == 0


def test_the_mean_difference_is_about_that_of_the_texts_themselves() -> None:
    mean, low, high = paired_difference([GOOD], [POOR], TRUTH)
    whole = quality(GOOD, TRUTH).auprc - quality(POOR, TRUTH).auprc
    assert mean == pytest.approx(whole, abs=0.01)
    assert low < whole < high


def test_the_table_has_mean_and_deviation_of_the_runs() -> None:
    (_, line) = table(["hate"], [GOOD[:, None], POOR[:, None]], TRUTH[:, None])
    both = [quality(scores, TRUTH).auprc for scores in (GOOD, POOR)]
    assert f"{np.mean(both):.3f} ±{np.std(both):.3f}" in line


def test_calibrated_scores_are_probabilities() -> None:
    """Margins that are three times the log-odds, and a bit off: of the texts that get 70 %, 70 % are positive."""
    odds = CHANCE.normal(0, 2, 20_000)
    truth = (CHANCE.random(20_000) < 1 / (1 + np.exp(-odds))).astype(np.float32)
    margins = np.repeat((odds * 3 + 1).astype(np.float32)[:, None], len(OUTPUTS), 1)
    labels = np.repeat(truth[:, None], len(OUTPUTS), 1)
    scores = calibrated(margins, calibrate(margins, margins, np.arange(20_000), labels))
    for column in (0, len(OUTPUTS) - 1):
        likely = np.abs(scores[:, column] - 0.7) < 0.03
        assert truth[likely].mean() == pytest.approx(0.7, abs=0.05)


def test_thresholds_are_what_a_share_of_harmless_texts_reach() -> None:
    scores = np.linspace(0, 1, 1_001, dtype=np.float32)[:, None]
    (found,) = thresholds(scores, np.zeros((1_001, 1), np.float32))
    assert found == pytest.approx((0.95, 0.995), abs=1e-3)
