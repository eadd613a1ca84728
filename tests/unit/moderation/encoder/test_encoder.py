"""The encoder's forward pass: the same as the reference's, and of each window the same whatever else is there."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.moderation.backends.encoder.encoder import CPU_ROWS, GPU_ROWS, GRAIN, LONGEST, Encoder, passes
from services.moderation.backends.encoder.weights import encoder_files, load_weights

pytestmark = pytest.mark.weights

ALL = (0, 1, 2, 3, 4, 5, 6)
LENGTHS = (2, 3, 15, 16, 17, 40, 64, 100, 127, 128)


@pytest.fixture(scope="module")
def weights() -> Mapping[str, torch.Tensor]:
    return load_weights(encoder_files().weights)


@pytest.fixture(scope="module")
def exact(weights: Mapping[str, torch.Tensor]) -> Encoder:
    return Encoder(weights, ALL, device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def quick(weights: Mapping[str, torch.Tensor]) -> Encoder:
    """As it runs here."""
    encoder = Encoder(weights, ALL, device="cpu")
    encoder.settle()
    return encoder


def window(length: int, seed: int = 0) -> list[int]:
    random = np.random.default_rng(1000 * seed + length)
    return [101, *random.integers(1000, 30_000, length - 2).tolist(), 102]


def test_its_states_are_those_of_the_reference(exact: Encoder) -> None:
    from transformers import BertModel

    reference = BertModel.from_pretrained(encoder_files().weights.parent, dtype=torch.float32).eval()
    windows = [window(length) for length in LENGTHS]
    for ids, pooled in zip(windows, exact.pooled(windows), strict=True):
        with torch.inference_mode():
            states = reference(torch.tensor([ids]), output_hidden_states=True).hidden_states
        expected = torch.stack([state[0].mean(0) for state in states]).numpy()
        assert pooled == pytest.approx(expected, abs=2e-5)


def test_the_dtype_of_this_machine_changes_little(exact: Encoder, quick: Encoder) -> None:
    windows = [window(length) for length in LENGTHS]
    one, other = exact.pooled(windows), quick.pooled(windows)
    cosine = (one * other).sum(-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(other, axis=-1)
    assert cosine.min() > 0.999


def test_a_window_is_judged_alike_alone_and_in_any_company(quick: Encoder) -> None:
    windows = [window(length, seed) for seed in range(3) for length in LENGTHS]
    together = quick.pooled(windows)
    backwards = quick.pooled(windows[::-1])[::-1]
    alone = np.concatenate([quick.pooled([each]) for each in windows])
    assert np.array_equal(together, alone)
    assert np.array_equal(backwards, alone)


def test_float32_too_is_the_same_in_company(exact: Encoder) -> None:
    windows = [window(128, seed) for seed in range(CPU_ROWS[0])]
    assert np.array_equal(exact.pooled(windows), np.concatenate([exact.pooled([each]) for each in windows]))


def test_a_number_of_rows_that_changes_bits_is_not_used(
    weights: Mapping[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Encoder(weights, (1,), device="cpu")
    run = encoder._run

    def rounding(windows: list[list[int]], rows: int, length: int | None = None) -> object:
        found = run(windows, rows, length)
        return np.nextafter(found, np.float32(9)) if rows == CPU_ROWS[0] else found

    monkeypatch.setattr(encoder, "_run", rounding)
    assert encoder.settle() == (CPU_ROWS[0],)
    assert encoder.rows == CPU_ROWS[1:]


def test_only_the_layers_that_are_asked_for_are_computed(weights: Mapping[str, torch.Tensor], exact: Encoder) -> None:
    encoder = Encoder(weights, (1, 3), device="cpu", dtype=torch.float32)
    assert len(encoder._blocks) == 3
    assert np.array_equal(encoder.pooled([window(20)]), exact.pooled([window(20)])[:, [1, 3]])


def test_nothing_in_nothing_out(exact: Encoder) -> None:
    assert exact.pooled([]).shape == (0, len(ALL), 384)


@given(st.lists(st.integers(2, LONGEST), max_size=40), st.sampled_from([CPU_ROWS, GPU_ROWS, (8, 4, 2, 1)]))
def test_every_window_is_in_one_pass_whose_shape_is_one_of_few(lengths: list[int], rows: tuple[int, ...]) -> None:
    planned = passes(lengths, rows)
    assert sorted(place for each in planned for place in each.places) == list(range(len(lengths)))
    for each in planned:
        assert each.rows in rows
        assert len(each.places) <= each.rows
        assert each.length % GRAIN == 0
        assert all(each.length - GRAIN < lengths[place] <= each.length for place in each.places)
    # Empty rows only where a pass of the fewest rows is not full.
    assert all(len(each.places) == each.rows or each.rows == rows[-1] for each in planned)


def test_the_empty_rows_of_a_pass_change_nothing(weights: Mapping[str, torch.Tensor], exact: Encoder) -> None:
    encoder = Encoder(weights, ALL, device="cpu", dtype=torch.float32)
    encoder.rows = (3,)
    windows = [window(30, seed) for seed in range(4)]
    assert encoder.pooled(windows) == pytest.approx(exact.pooled(windows), abs=2e-5)
