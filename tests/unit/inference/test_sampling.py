"""The draw of one token: the distribution, the cuts, and that neither path nor neighbours matter."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.inference.engines import sampling
from services.inference.engines.sampling import Draw, draw_tokens, uniform_number

VOCABULARY = 3_000


def draw(
    logits: torch.Tensor, uniform: float, *, temperature: float = 1.0, top_p: float = 1.0, top_k: int | None = None
) -> int:
    """The token of one row of logits [vocabulary]."""
    return int(draw_tokens(logits.unsqueeze(0), [Draw(temperature, top_p, top_k, uniform)]))


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(1)) * 3


def test_temperature_zero_leaves_the_logits_alone(logits: torch.Tensor) -> None:
    logits[5] = logits[3] = logits.max() + 1  # a tie, which a tiny temperature would toss a coin for
    assert {draw(logits, step / 50, temperature=0.0) for step in range(50)} == {3}


@pytest.mark.parametrize(("top_p", "top_k"), [(1.0, None), (0.999_999, None), (1.0, 4)])
def test_draws_follow_the_distribution(top_p: float, top_k: int | None) -> None:
    probabilities = torch.tensor([0.1, 0.6, 0.05, 0.25])
    draws = [draw(probabilities.log(), (step + 0.5) / 1000, top_p=top_p, top_k=top_k) for step in range(1000)]
    assert torch.bincount(torch.tensor(draws)).tolist() == pytest.approx([100, 600, 50, 250], abs=2)


def test_temperature_sharpens(logits: torch.Tensor) -> None:
    distinct = [len({draw(logits, step / 200, temperature=t) for step in range(200)}) for t in (0.2, 1.0, 3.0)]
    assert distinct == sorted(distinct)
    assert distinct[0] < distinct[2]


def test_top_k_keeps_the_k_likeliest(logits: torch.Tensor) -> None:
    likeliest = set(logits.topk(3).indices.tolist())
    assert {draw(logits, step / 500, top_k=3) for step in range(500)} == likeliest


def test_top_p_keeps_the_smallest_nucleus() -> None:
    logits = torch.tensor([0.1, 0.5, 0.05, 0.35]).log()
    assert {draw(logits, step / 500, top_p=0.8) for step in range(500)} == {1, 3}
    assert {draw(logits, step / 500, top_p=0.01) for step in range(500)} == {1}


@given(uniform=st.floats(0, 1, exclude_max=True, width=32), top_p=st.floats(0.01, 1), scale=st.floats(0, 20))
@settings(max_examples=200, deadline=None)
def test_every_draw_is_a_token_of_the_nucleus(uniform: float, top_p: float, scale: float) -> None:
    logits = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(2)) * scale
    token = draw(logits, uniform, top_p=top_p)
    probabilities = logits.softmax(-1)
    likelier = probabilities[probabilities > probabilities[token]].sum()
    assert likelier <= top_p + 1e-4


def test_a_flat_distribution_outgrows_the_shortlist() -> None:
    flat = torch.zeros(VOCABULARY)
    drawn = {draw(flat, step / 6_000, top_p=0.9) for step in range(6_000)}
    assert sampling._SHORTLIST < len(drawn) <= math.ceil(0.9 * VOCABULARY) + 1


def test_the_shortlist_changes_nothing(logits: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    uniforms = [step / 100 for step in range(100)]
    short = [draw(logits, uniform, top_p=0.7) for uniform in uniforms]
    monkeypatch.setattr(sampling, "_SHORTLIST", VOCABULARY)
    assert [draw(logits, uniform, top_p=0.7) for uniform in uniforms] == short


def test_neighbours_do_not_matter(logits: torch.Tensor) -> None:
    rows = torch.stack([logits, logits.flip(0), logits, logits])
    draws = [Draw(0.0), Draw(1.0, uniform=0.3), Draw(0.7, 0.9, 40, 0.6), Draw(1.3, uniform=0.9)]
    together = draw_tokens(rows, draws).tolist()
    assert together == [int(draw_tokens(rows[n : n + 1], [draws[n]])) for n in range(4)]


@given(seed=st.integers(-(2**70), 2**70), position=st.integers(0, 2**40))
def test_uniform_numbers_stay_below_one_as_float32(seed: int, position: int) -> None:
    number = uniform_number(seed, position)
    assert 0 <= number < 1
    assert torch.tensor(number, dtype=torch.float32).item() == number


def test_uniform_numbers_are_uniform_over_positions_and_seeds() -> None:
    for numbers in ([uniform_number(7, n) for n in range(2_000)], [uniform_number(n, 7) for n in range(2_000)]):
        counts = torch.histc(torch.tensor(numbers), bins=10, min=0, max=1)
        assert counts.min() > 150
        assert counts.max() < 250
