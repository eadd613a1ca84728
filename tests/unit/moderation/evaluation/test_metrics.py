"""The measures, against values worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.moderation.evaluation.metrics import (
    Bin,
    Confusion,
    Ranking,
    average_precision,
    bootstrap,
    expected_calibration_error,
    reliability,
    true_positive_rate_at,
)


def ranking(truth: list[int], scores: list[float]) -> tuple[Ranking, np.ndarray]:
    return Ranking(np.array(truth, bool), np.array(scores, float)), np.ones(len(truth), int)


def test_average_precision_sums_precision_at_each_gain_of_recall() -> None:
    # Positives at ranks 1 and 3: (1/1 + 2/3) / 2.
    assert average_precision(*ranking([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.1])) == pytest.approx((1 + 2 / 3) / 2)


def test_equal_scores_are_one_threshold() -> None:
    # All at once: precision 2/4 at recall 1, in whatever order they stand.
    assert average_precision(*ranking([1, 0, 1, 0], [0.5] * 4)) == pytest.approx(0.5)
    assert average_precision(*ranking([0, 0, 1, 1], [0.5] * 4)) == pytest.approx(0.5)


def test_a_weight_counts_a_text_as_often() -> None:
    doubled, weights = ranking([1, 0, 1], [0.9, 0.8, 0.7])
    repeated = ranking([1, 0, 0, 1], [0.9, 0.8, 0.8, 0.7])
    weights[1] = 2
    assert average_precision(doubled, weights) == pytest.approx(average_precision(*repeated))
    weights[0] = 0
    assert average_precision(doubled, weights) == pytest.approx(1 / 3)


@pytest.mark.parametrize(("limit", "expected"), [(0.0, 0.5), (0.24, 0.5), (0.25, 0.75), (0.5, 1.0)])
def test_the_true_positive_rate_is_the_best_within_the_limit(limit: float, expected: float) -> None:
    # In falling order: + + - + - + - -, four of each.
    truth, scores = [1, 1, 0, 1, 0, 1, 0, 0], [8.0, 7, 6, 5, 4, 3, 2, 1]
    assert true_positive_rate_at(limit)(*ranking(truth, scores)) == expected


def test_no_threshold_splits_equal_scores() -> None:
    assert true_positive_rate_at(0.0)(*ranking([1, 0, 1], [0.9, 0.9, 0.5])) == 0


@pytest.mark.parametrize("truth", [[], [0, 0]])
def test_without_positives_there_is_no_figure(truth: list[int]) -> None:
    scores = [0.1] * len(truth)
    assert math.isnan(average_precision(*ranking(truth, scores)))
    assert math.isnan(true_positive_rate_at(0.01)(*ranking(truth, scores)))


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.2, 0.5, 0.9])), min_size=1, max_size=30))
def test_average_precision_is_what_its_definition_says(texts: list[tuple[bool, float]]) -> None:
    positives = sum(label for label, _ in texts)
    if not positives:
        return
    expected, before = 0.0, 0
    for threshold in sorted({score for _, score in texts}, reverse=True):
        taken = [label for label, score in texts if score >= threshold]
        expected += (sum(taken) - before) / positives * sum(taken) / len(taken)
        before = sum(taken)
    found = average_precision(*ranking([int(label) for label, _ in texts], [score for _, score in texts]))
    assert found == pytest.approx(expected)


def test_intervals_hold_the_value_and_are_the_same_again() -> None:
    truth = [n % 3 == 0 for n in range(60)]
    scores = [0.5 * label + (n * 7 % 10) / 10 for n, label in enumerate(truth)]
    ranked, _ = ranking([int(label) for label in truth], scores)
    measures = {"ap": average_precision}
    first = bootstrap(ranked, 60, measures, draws=200, seed=1)["ap"]
    assert first.low < first.value < first.high
    assert first == bootstrap(ranked, 60, measures, draws=200, seed=1)["ap"]
    assert first != bootstrap(ranked, 60, measures, draws=200, seed=2)["ap"]


def test_a_confusion_has_its_rates() -> None:
    truth, decided = np.array([1, 1, 1, 0, 0], bool), np.array([1, 0, 0, 1, 0], bool)
    confusion = Confusion.of(truth, decided)
    assert confusion == Confusion(1, 1, 2, 1)
    assert (confusion.precision, confusion.recall, confusion.false_positive_rate) == (0.5, pytest.approx(1 / 3), 0.5)
    nothing = Confusion.of(np.array([0], bool), np.array([0], bool))
    assert math.isnan(nothing.precision)
    assert math.isnan(nothing.recall)
    assert nothing.false_positive_rate == 0


def test_calibration_compares_score_and_share_bin_by_bin() -> None:
    scores, truth = np.array([0.05, 0.15, 0.15, 0.95, 1.0]), np.array([0, 0, 1, 1, 1], bool)
    bins = reliability(truth, scores)
    assert bins == [
        Bin(pytest.approx(0.05), 0.0, 1),
        Bin(pytest.approx(0.15), 0.5, 2),
        Bin(pytest.approx(0.975), 1.0, 2),
    ]
    assert expected_calibration_error(bins) == pytest.approx((0.05 + 2 * 0.35 + 2 * 0.025) / 5)
    assert math.isnan(expected_calibration_error([]))
