"""The head on arrays small enough to reckon by hand, and what is said of files that are none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.moderation.backends.encoder.features import KERNELS, LAYERS, TERMS_WEIGHT, TOTAL_WEIGHT, Scale, Terms
from services.moderation.backends.encoder.head import (
    CATEGORIES,
    OUTPUTS,
    Head,
    calibrated,
    load_head,
    mixed_any,
)
from services.moderation.backends.encoder.lexicon import built_in
from services.moderation.policy.backend_specs import ENCODER_CATEGORIES
from shared.errors import SettingsError

WIDTH = 4
SUPPORT = 3
Arrays = dict[str, np.ndarray[Any, Any]]


@pytest.fixture
def arrays() -> Arrays:
    """A head of SUPPORT random texts in English, with a margin of 0.5 for every output where nothing is alike."""
    chance = np.random.default_rng(2)
    lexical = built_in().size
    scale = Scale.of(
        chance.standard_normal((9, len(LAYERS), WIDTH)).astype(np.float32),
        chance.standard_normal((9, lexical)).astype(np.float32),
    )
    terms = Terms.of(["kill them", "kill them", "be kind", "be kind"])
    found: Arrays = {
        **dict(zip(Scale._fields, scale, strict=True)),
        "format": np.array(1),
        "terms": terms.hashes,
        "inverse_frequency": terms.inverse_frequency,
        "term_weights": np.zeros((len(terms.hashes), len(OUTPUTS)), np.float16),
        "english": np.ones(SUPPORT, np.float16),
        "weights": np.zeros((SUPPORT, len(OUTPUTS)), np.float32),
        "bias": np.full(len(OUTPUTS), 0.5, np.float32),
        "calibration": np.array([(1, 0)] * (len(OUTPUTS) + 1), np.float32),
    }
    for kernel, length in zip(KERNELS, (len(LAYERS) * WIDTH, WIDTH, WIDTH, lexical), strict=True):
        found[f"{kernel.name}.centre"] = np.zeros(length, np.float32)
        found[f"{kernel.name}.directions"] = np.eye(length, 2, dtype=np.float16)
        found[f"{kernel.name}.points"] = chance.standard_normal((SUPPORT, 2)).astype(np.float16)
        found[f"{kernel.name}.rests"] = np.zeros(SUPPORT, np.float16)
    return found


@pytest.fixture
def saved(arrays: Arrays, tmp_path: Path) -> Callable[..., Path]:
    def save(**changed: Any) -> Path:
        path = tmp_path / "head.npz"
        np.savez(path, **{**arrays, **changed})
        return path

    return save


def pooled(rows: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(rows).standard_normal((rows, len(LAYERS), WIDTH)).astype(np.float32)


def test_what_is_like_nothing_gets_the_bias(arrays: Arrays) -> None:
    assert Head(arrays, "r").margins(pooled(2), ["so", "what"]) == pytest.approx(np.full((2, len(OUTPUTS)), 0.5))


def test_a_text_that_is_a_support_text_in_every_view_has_likeness_one(arrays: Arrays) -> None:
    text, states = "we were at home", pooled(1)
    vectors = Scale(*(arrays[name] for name in Scale._fields)).vectors(states, built_in().features(text)[None])
    for kernel, vector in zip(KERNELS, vectors, strict=True):
        arrays[f"{kernel.name}.points"][0] = vector[0, :2]
        arrays[f"{kernel.name}.rests"][0] = 0
        arrays[f"{kernel.name}.centre"][2:] = vector[0, 2:]
    arrays["weights"][0, 0] = 1
    margins = Head(arrays, "r").margins(states, [text])
    assert margins[0, 0] - 0.5 == pytest.approx(1 - TERMS_WEIGHT / TOTAL_WEIGHT, abs=1e-2)
    assert margins[0, 1] == 0.5


def test_a_text_in_another_language_is_less_like_english_ones(arrays: Arrays) -> None:
    arrays["weights"][:, 0] = 1
    head = Head(arrays, "r")
    english, other = head.margins(np.repeat(pooled(1), 2, 0), ["to be or not to be, that is it", "Sein oder Nichtsein"])
    assert other[0] - 0.5 < english[0] - 0.5


def test_words_add_what_their_terms_weigh(arrays: Arrays) -> None:
    arrays["term_weights"][:, 2] = 1
    head = Head(arrays, "r")
    known, unknown = head.margins(pooled(2), ["KILL them", "unheard of"])
    assert known[2] - 0.5 == pytest.approx(3 / 3**0.5, abs=1e-3)  # "kill", "them", "kill them", of length 1 together
    assert unknown[2] == 0.5


def test_a_window_scores_the_same_to_the_bit_whatever_else_is_scored(arrays: Arrays) -> None:
    arrays["weights"][:] = np.random.default_rng(0).standard_normal(arrays["weights"].shape)
    head, states, texts = Head(arrays, "r"), pooled(7), [f"text number {number}" for number in range(7)]
    together = head.score_all(states, texts)
    for row, text in enumerate(texts):
        assert np.array_equal(head.score_all(states[row : row + 1], [text])[0], together[row])


def test_no_windows_have_no_scores(arrays: Arrays) -> None:
    assert Head(arrays, "r").score(pooled(0), []).shape == (0, len(CATEGORIES))


def test_score_leaves_any_out(arrays: Arrays) -> None:
    head = Head(arrays, "r")
    assert np.array_equal(head.score(pooled(2), ["a", "b"]), head.score_all(pooled(2), ["a", "b"])[:, :-1])


def test_calibration_turns_margins_into_probabilities() -> None:
    plain = np.array([(2, 1)] * len(OUTPUTS) + [(1, 0)], np.float32)
    scores = calibrated(np.full((1, len(OUTPUTS)), -0.5, np.float32), plain)
    assert scores[0, 0] == 0.5


@pytest.mark.parametrize("odds", [-40.0, -3.0, 0.0, 3.0, 40.0])
def test_any_lies_between_its_own_and_the_union(odds: float) -> None:
    rows = np.full((1, len(OUTPUTS)), odds, np.float32)
    probability = 1 / (1 + np.exp(-odds))
    union = 1 - (1 - probability) ** 5
    found = float(mixed_any(rows)[0])
    assert np.isfinite(found)
    if abs(odds) < 10:
        assert found == pytest.approx(2 / 3 * odds + 1 / 3 * np.log(union / (1 - union)), rel=1e-4)


def test_a_head_is_told_apart_by_its_file(saved: Callable[..., Path]) -> None:
    one = load_head(saved()).revision
    assert load_head(saved()).revision == one
    assert load_head(saved(bias=np.zeros(len(OUTPUTS), np.float32))).revision != one


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.npz is no head"):
        load_head(tmp_path / "none.npz")


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 broken"])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "head.npz").write_bytes(content)
    with pytest.raises(SettingsError, match="is no head"):
        load_head(tmp_path / "head.npz")


def test_a_pickle_is_refused(saved: Callable[..., Path]) -> None:
    with pytest.raises(SettingsError, match="is no head"):
        load_head(saved(bias=np.array([object()])))


def test_another_format_is_refused(saved: Callable[..., Path]) -> None:
    with pytest.raises(SettingsError, match="format 2, not 1"):
        load_head(saved(format=np.array(2)))


def test_a_missing_array_is_named(tmp_path: Path, arrays: Arrays) -> None:
    del arrays["bias"]
    np.savez(tmp_path / "head.npz", **arrays)
    with pytest.raises(SettingsError, match="bias"):
        load_head(tmp_path / "head.npz")


def test_policies_know_what_it_scores() -> None:
    assert ENCODER_CATEGORIES == OUTPUTS
