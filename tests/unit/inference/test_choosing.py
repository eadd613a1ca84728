"""What single requests ask of a step: penalties, log probabilities, and that neighbours neither matter nor pay."""

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.inference.engines import choosing
from services.inference.engines.choosing import Choice, LogitsKeeper, Penalties, choose
from services.inference.engines.port import GenerationRequest
from services.inference.engines.sampling import Draw, draw_tokens, uniform_number

VOCABULARY = 50
PLAIN = GenerationRequest("r", (1, 2, 3), 40, frozenset(), temperature=0.0)

penalties = st.floats(-2, 2)
ids = st.lists(st.integers(0, VOCABULARY - 1), max_size=30)


def logits_of(steps: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(steps, VOCABULARY, generator=torch.Generator().manual_seed(seed))


def say(logits: torch.Tensor, *requests: GenerationRequest) -> list[list[int]]:
    """What each request says, given one row of logits [vocabulary] a step, the same for all."""
    choices = [Choice.of(request) for request in requests]
    said: list[list[int]] = [[] for _ in requests]
    for row in logits:
        rows = row.expand(len(requests), -1).clone()
        tokens = rows.argmax(-1).to(torch.int32)
        choose(rows, choices, tokens)
        assert torch.equal(rows, row.expand(len(requests), -1)), "the model's logits are not changed"
        for answer, token in zip(said, tokens.tolist(), strict=True):
            answer.append(token)
    return said


def naive(logits: torch.Tensor, request: GenerationRequest) -> list[int]:
    """OpenAI's formula, counted anew at every step, then one draw."""
    said = list(request.primed_ids)
    for row in logits:
        counts = Counter(said)
        weighed = [
            float(row[n]) - counts[n] * request.frequency_penalty - (counts[n] > 0) * request.presence_penalty
            for n in range(VOCABULARY)
        ]
        position = len(request.prompt_ids) + len(said)
        uniform = uniform_number(request.seed, position) if request.seed is not None else 0.0
        draw = Draw(request.temperature, request.top_p, request.top_k, uniform)
        said.append(int(draw_tokens(torch.tensor(weighed).unsqueeze(0), [draw])))
    return said[len(request.primed_ids) :]


@given(presence=penalties, frequency=penalties, primed=ids, temperature=st.sampled_from([0.0, 0.8]))
@settings(max_examples=150)
def test_penalties_are_openais_formula(
    presence: float, frequency: float, primed: list[int], temperature: float
) -> None:
    request = replace(
        PLAIN,
        primed_ids=tuple(primed),
        presence_penalty=presence,
        frequency_penalty=frequency,
        temperature=temperature,
        seed=4,
    )
    logits = logits_of(20)
    assert say(logits, request) == [naive(logits, request)]


def test_the_prompt_is_not_penalised() -> None:
    """Only what the answer holds counts."""
    logits = torch.zeros(1, VOCABULARY)
    logits[0, 2] = 1.0  # a token of the prompt
    assert say(logits, replace(PLAIN, presence_penalty=2.0)) == [[2]]
    assert say(logits, replace(PLAIN, presence_penalty=2.0, primed_ids=(2,))) != [[2]]


def test_a_presence_penalty_counts_once_and_a_frequency_penalty_each_time() -> None:
    row = torch.zeros(VOCABULARY)
    once, often = Penalties(0.5, 0.0, Counter({7: 1, 8: 3})), Penalties(0.0, 0.5, Counter({7: 1, 8: 3}))
    assert once.penalised(row)[[6, 7, 8]].tolist() == [0.0, -0.5, -0.5]
    assert often.penalised(row)[[6, 7, 8]].tolist() == [0.0, -0.5, -1.5]


@given(
    said=st.integers(0, 20),
    presence_penalty=penalties,
    frequency_penalty=penalties,
    seed=st.integers(0, 2**63),
    temperature=st.floats(0.1, 2),
    top_p=st.floats(0.1, 1),
    top_k=st.none() | st.integers(1, VOCABULARY),
)
@settings(max_examples=150)
def test_a_takeover_says_what_would_have_been_said(said: int, **asked: float) -> None:
    request = replace(PLAIN, **asked)  # type: ignore[arg-type]
    logits = logits_of(20, seed=1)
    (whole,) = say(logits, request)
    (rest,) = say(logits[said:], replace(request, primed_ids=tuple(whole[:said])))
    assert rest == whole[said:]


def test_neighbours_that_ask_for_everything_change_nothing() -> None:
    logits = logits_of(15, seed=2)
    sampled = replace(PLAIN, temperature=0.9, top_p=0.8, seed=3)
    greedy = [
        replace(PLAIN, logprobs=20),
        replace(PLAIN, temperature=1.3, seed=9, frequency_penalty=1.0),
        replace(PLAIN, presence_penalty=-2.0, logprobs=0),
    ]
    together = say(logits, greedy[0], PLAIN, greedy[1], sampled, greedy[2])
    assert [together[1], together[3]] == [*say(logits, PLAIN), *say(logits, sampled)]
    assert together[1] == logits.argmax(-1).tolist()
    assert [together[0], together[2], together[4]] == [said for request in greedy for said in say(logits, request)]


def test_who_asks_for_nothing_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Greedy requests alone touch no logits at all."""
    assert Choice.of(PLAIN) is None
    assert Choice.of(replace(PLAIN, top_p=0.5, top_k=3, seed=7)) is None
    for name in ("draw_tokens", "likelihoods"):
        monkeypatch.setattr(choosing, name, None)
    assert say(logits_of(2), PLAIN, PLAIN) == [logits_of(2).argmax(-1).tolist()] * 2


def test_log_probabilities_are_of_the_models_own_logits() -> None:
    """Not of what temperature, penalties and truncation made of them."""
    request = replace(
        PLAIN,
        temperature=0.5,
        top_k=3,
        seed=1,
        presence_penalty=1.5,
        frequency_penalty=0.5,
        primed_ids=(4,),
        logprobs=2,
    )
    logits = logits_of(6, seed=3)
    choice = Choice.of(request)
    assert choice is not None
    for row in logits:
        tokens = row.argmax(-1, keepdim=True)
        choose(row.unsqueeze(0), [choice], tokens)
        (told,) = choice.take(1)
        reference = row.log_softmax(-1)
        assert told.logprob == pytest.approx(float(reference[tokens[0]]), abs=1e-5)
        assert [n for n, _ in told.top] == reference.topk(2).indices.tolist()
    assert choice.take(1) == ()


def test_a_captured_graph_leaves_its_logits_in_the_room_made_for_them() -> None:
    """It runs the same calls with the same tensors again, padded with rows that nobody reads."""
    room = torch.full((4, VOCABULARY), math.nan)
    keeper = LogitsKeeper(room)
    static = logits_of(2)
    assert keeper(torch.zeros(2), static, torch.empty(0, 2)) is static
    assert torch.equal(keeper.logits(1), static[:1])
    replayed = logits_of(2, seed=8)
    room[:2].copy_(replayed)  # what a replay does: no call of ours
    assert torch.equal(keeper.logits(2), replayed)


@pytest.mark.parametrize(
    "wrong",
    [
        {"presence_penalty": math.nan},
        {"frequency_penalty": math.inf},
        {"logprobs": -1},
        {"logprobs": 21},
        {"top_p": -0.1},
        {"top_p": 1.1},
    ],
    ids=str,
)
def test_what_cannot_be_weighed_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(PLAIN, **wrong)  # type: ignore[arg-type]
