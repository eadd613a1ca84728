"""The draw of one token: the distribution, the cuts, and that neither path nor neighbours matter."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.inference.engines import sampling
from services.inference.engines.sampling import LEAST_LOGPROB, Draw, draw_tokens, likelihoods, uniform_number

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
    assert {draw(logits, step / 500, top_p=0.0) for step in range(500)} == {1}


@given(uniform=st.floats(0, 1, exclude_max=True, width=32), top_p=st.floats(0.01, 1), scale=st.floats(0, 20))
@settings(max_examples=200)
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


# -- distributions -------------------------------------------------------------------------------------------------
#
# Pearson's chi-square over thousands of draws with the numbers that a seeded request would draw. The draws are the
# same in every run, so a test that holds once holds always; the threshold is that of one failure in a million seeds.

DRAWS = 20_000


def drawn(logits: torch.Tensor, draw: Draw, seed: int = 5) -> torch.Tensor:
    """How often each token comes at `DRAWS` positions: [vocabulary]."""
    draws = [Draw(draw.temperature, draw.top_p, draw.top_k, uniform_number(seed, n)) for n in range(DRAWS)]
    tokens = [draw_tokens(logits.expand(2_000, -1), draws[n : n + 2_000]) for n in range(0, DRAWS, 2_000)]
    return torch.bincount(torch.cat(tokens), minlength=logits.numel())


def follows(counts: torch.Tensor, probabilities: torch.Tensor) -> bool:
    """Whether the counts are those of the distribution; tokens expected fewer than five times count as one."""
    expected = probabilities * counts.sum()
    rare = expected < 5
    observed = torch.cat([counts[~rare].double(), counts[rare].sum().double().unsqueeze(0)])
    expected = torch.cat([expected[~rare], expected[rare].sum().unsqueeze(0)])
    possible = expected > 0
    if observed[~possible].sum() > 0:
        return False
    degrees = int(possible.sum()) - 1
    if degrees == 0:
        return True
    statistic = float(((observed[possible] - expected[possible]) ** 2 / expected[possible]).sum())
    # Wilson and Hilferty (1931): the cube root of chi-square over its degrees of freedom is nearly normal
    spread = 2 / (9 * degrees)
    return (statistic / degrees) ** (1 / 3) < 1 - spread + 4.75 * math.sqrt(spread)


def naive(logits: torch.Tensor, draw: Draw) -> torch.Tensor:
    """The distribution after temperature, top_k and top_p, in double precision and one token at a time."""
    probabilities = (logits.double() / draw.temperature).softmax(-1)
    kept = torch.zeros_like(probabilities)
    mass = 0.0
    for rank, token in enumerate(sorted(range(logits.numel()), key=lambda n: -float(probabilities[n]))):
        if (draw.top_k is not None and rank >= draw.top_k) or mass >= draw.top_p:
            break
        kept[token] = probabilities[token]
        mass += float(probabilities[token])
    return kept / kept.sum()


@pytest.mark.parametrize(
    "asked",
    [
        Draw(temperature=1.0),
        Draw(temperature=0.3),
        Draw(temperature=1.7),
        Draw(top_p=0.9),
        Draw(top_p=0.35),
        Draw(top_k=7),
        Draw(top_k=1),
        Draw(temperature=1.4, top_p=0.8, top_k=25),
    ],
    ids=str,
)
def test_thousands_of_draws_follow_what_was_asked_for(asked: Draw) -> None:
    logits = torch.randn(300, generator=torch.Generator().manual_seed(3)) * 2
    assert follows(drawn(logits, asked), naive(logits, asked))


@pytest.mark.parametrize(
    ("asked", "other"),
    [
        (Draw(), Draw(temperature=1.1)),
        (Draw(temperature=0.7), Draw(temperature=0.77)),
        (Draw(top_p=0.9), Draw(top_p=0.93)),
        (Draw(top_k=7), Draw(top_k=8)),
    ],
    ids=str,
)
def test_the_chi_square_sees_small_differences(asked: Draw, other: Draw) -> None:
    """Else the tests above could not fail."""
    logits = torch.randn(300, generator=torch.Generator().manual_seed(3)) * 2
    assert not follows(drawn(logits, asked), naive(logits, other))


def test_seeds_and_positions_draw_independently() -> None:
    """A pair of neighbours in 10 x 10 outcomes: were they coupled, the pairs would not follow the product."""
    logits = torch.zeros(10)
    for pairs in (
        [(uniform_number(1, n), uniform_number(1, n + 1)) for n in range(0, 2 * DRAWS, 2)],
        [(uniform_number(n, 9), uniform_number(n + 1, 9)) for n in range(0, 2 * DRAWS, 2)],
    ):
        first, second = (
            draw_tokens(logits.expand(DRAWS, -1), [Draw(uniform=pair[side]) for pair in pairs]) for side in (0, 1)
        )
        assert follows(torch.bincount(first * 10 + second, minlength=100), torch.full((100,), 0.01))


# -- log probabilities ---------------------------------------------------------------------------------------------


def test_likelihoods_are_the_log_softmax_with_the_likeliest_first(logits: torch.Tensor) -> None:
    rows = torch.stack([logits, logits.flip(0), logits])
    tokens = torch.tensor([3, 40, 500], dtype=torch.int32)
    told = likelihoods(rows, tokens, [0, 2, 20])
    for row, token, top, likelihood in zip(rows, tokens.tolist(), [0, 2, 20], told, strict=True):
        reference = row.double() - row.double().exp().sum().log()
        assert likelihood.logprob == pytest.approx(float(reference[token]), abs=1e-4)
        assert [token_id for token_id, _ in likelihood.top] == reference.topk(top).indices.tolist()
        assert [logprob for _, logprob in likelihood.top] == pytest.approx(
            reference.topk(top).values.tolist(), abs=1e-4
        )


def test_what_json_cannot_say_is_very_unlikely() -> None:
    impossible = torch.tensor([[0.0, -math.inf, -50_000.0], [math.nan, 0.0, 1.0], [-math.inf] * 3])
    for likelihood in likelihoods(impossible, torch.tensor([1, 0, 2]), [3, 3, 3]):
        assert likelihood.logprob == LEAST_LOGPROB
        assert all(LEAST_LOGPROB <= logprob <= 0 for _, logprob in likelihood.top)


def test_a_small_vocabulary_has_no_more_likely_tokens_than_tokens() -> None:
    (likelihood,) = likelihoods(torch.zeros(1, 3), torch.tensor([1]), [20])
    assert len(likelihood.top) == 3
