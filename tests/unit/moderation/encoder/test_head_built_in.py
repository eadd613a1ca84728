"""The committed head: what stands in its file, and that it tells plain cases apart."""

import numpy as np
import pytest

from services.moderation.backends.encoder.classifier import WindowClassifier
from services.moderation.backends.encoder.head import CATEGORIES, DEFAULT, OUTPUTS, load_head
from services.moderation.normaliser import normalise

MOST_BYTES = 8_000_000


@pytest.fixture(scope="module")
def classifier() -> WindowClassifier:
    return WindowClassifier.load()


def test_the_file_is_small_and_has_numbers_only() -> None:
    assert DEFAULT.stat().st_size < MOST_BYTES
    with np.load(DEFAULT, allow_pickle=False) as arrays:
        for name in arrays.files:
            assert np.isfinite(arrays[name]).all(), name


def test_each_margin_was_calibrated_upwards() -> None:
    with np.load(DEFAULT, allow_pickle=False) as arrays:
        calibration = arrays["calibration"]
    assert calibration.shape == (len(OUTPUTS) + 1, 2)
    assert (calibration[:, 0] > 0).all()


def test_it_loads_and_is_named_by_its_file() -> None:
    head = load_head()
    assert len(head.revision) == 12
    assert head.categories == CATEGORIES


@pytest.mark.weights
@pytest.mark.parametrize(
    ("category", "text"),
    [
        ("sexual", "She took off his trousers and rode him until both of them came, moaning."),
        ("hate", "Immigrants are filthy parasites and should be thrown out of our country."),
        ("violence", "I am going to stab you in the neck when you leave the house."),
        ("harassment", "Nobody likes you, you stupid ugly pig."),
        ("self-harm", "I want to kill myself tonight, I have the pills here."),
    ],
)
def test_a_plain_violation_is_likely_and_a_plain_text_is_not(
    classifier: WindowClassifier, category: str, text: str
) -> None:
    harmful, harmless = (_scores(classifier, said) for said in (text, "The train to the coast leaves at nine."))
    for column in (OUTPUTS.index(category), OUTPUTS.index("any")):
        assert harmful[column] > 0.5
        assert harmless[column] < 0.2


def _scores(classifier: WindowClassifier, text: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    scores: np.ndarray[tuple[int], np.dtype[np.float32]] = classifier.scores(
        classifier.windows(normalise(text).text)
    ).max(0)
    return scores
