"""What single requests ask for, in the real generation loop: each answer is that of the request alone, step by step.

A small random Llama in float32 stands in for a model: its sums do not depend on the batch's shape as bfloat16's do, so
answers are compared token for token, and log probabilities to four decimals, with plain forward passes.
"""

import queue
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.generation.continuous_batching.requests import RequestState

from services.inference.engines.batching import BatchLimits, BatchLoop
from services.inference.engines.port import GenerationRequest, Likelihood, StepOutput
from services.inference.engines.sampling import Draw, draw_tokens, uniform_number

VOCABULARY = 97
LENGTH = 24
TIMEOUT_S = 60
ROOMY = BatchLimits(slots=8, cache_tokens=1_024, page_tokens=16, step_tokens=512)
IN_PARTS = BatchLimits(slots=8, cache_tokens=1_024, page_tokens=16, step_tokens=12)
TIGHT = BatchLimits(slots=8, cache_tokens=160, page_tokens=8, step_tokens=64)


@dataclass
class Said:
    """One request's answer."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[Likelihood] = field(default_factory=list)


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.25,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config).float().eval()


@pytest.fixture
def limits(request: pytest.FixtureRequest) -> BatchLimits:
    return getattr(request, "param", ROOMY)


@pytest.fixture
def loop(model: Any, limits: BatchLimits) -> "Iterator[Running]":
    running = Running(model, limits)
    yield running
    running.loop.stop()


class Running:
    """A loop and a blocking way to ask it."""

    def __init__(self, model: Any, limits: BatchLimits) -> None:
        self._steps: queue.Queue[list[StepOutput]] = queue.Queue()
        self.loop = BatchLoop(model, limits, self._steps.put)
        self.loop.start()

    def ask(self, *requests: GenerationRequest) -> list[Said]:
        """All of them at once."""
        said = {request.id: Said() for request in requests}
        for request in requests:
            self.loop.submit(request)
        running = set(said)
        while running:
            for output in self._steps.get(timeout=TIMEOUT_S):
                assert output.error is None
                said[output.request_id].ids += output.ids
                said[output.request_id].logprobs += output.logprobs
                if output.finish is not None:
                    running.remove(output.request_id)
        return list(said.values())


def alone(model: Any, request: GenerationRequest) -> tuple[list[int], torch.Tensor]:
    """The answer by one whole forward pass a token and the formula, and the log probabilities [length, vocabulary]."""
    said = list(request.primed_ids)
    rows = []
    with torch.inference_mode():
        for _ in range(request.max_new_tokens):
            row = model(torch.tensor([[*request.prompt_ids, *said]])).logits[0, -1].float()
            rows.append(row.log_softmax(-1))
            counts = Counter(said)
            weights = [
                n * request.frequency_penalty + (n > 0) * request.presence_penalty
                for n in (counts[token] for token in range(VOCABULARY))
            ]
            uniform = uniform_number(request.seed or 0, len(request.prompt_ids) + len(said))
            draw = Draw(request.temperature, request.top_p, request.top_k, uniform)
            said.append(int(draw_tokens((row - torch.tensor(weights)).unsqueeze(0), [draw])))
    return said[len(request.primed_ids) :], torch.stack(rows)


def requests() -> list[GenerationRequest]:
    """All kinds of asking, and prompts of different lengths."""
    greedy = GenerationRequest("greedy", tuple(range(3, 20)), LENGTH, frozenset(), temperature=0.0)
    sampled = replace(greedy, id="sampled", prompt_ids=(1, 2), temperature=0.9, seed=3)
    return [
        greedy,
        sampled,
        replace(sampled, id="cut", top_p=0.8, top_k=20, seed=4, prompt_ids=tuple(range(40, 75))),
        replace(sampled, id="weighed", presence_penalty=0.7, frequency_penalty=0.4, logprobs=2, seed=5),
        replace(greedy, id="greedy and weighed", frequency_penalty=1.5, prompt_ids=(9, 8, 7), logprobs=0),
        replace(greedy, id="told", logprobs=20, prompt_ids=tuple(range(50, 63))),
        replace(sampled, id="urged", presence_penalty=-1.0, top_k=5, seed=6, primed_ids=(11, 12, 11)),
    ]


@pytest.mark.parametrize("limits", [ROOMY, IN_PARTS, TIGHT], ids=["roomy", "in parts", "tight"], indirect=True)
def test_each_answer_in_a_mixed_batch_is_that_of_the_request_alone(
    loop: Running, limits: BatchLimits, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where prompts are read in parts, and where the cache is too small for all and some are read again."""
    again: list[str] = []
    begin_again = RequestState.create_equivalent_initial_request

    def noted(state: RequestState) -> RequestState:
        again.append(state.request_id)
        return begin_again(state)

    monkeypatch.setattr(RequestState, "create_equivalent_initial_request", noted)
    for request, said in zip(requests(), loop.ask(*requests()), strict=True):
        ids, logprobs = alone(model, request)
        assert said.ids == ids, request.id
        check_told(request, said, logprobs)
    assert bool(again) == (limits is TIGHT)


def check_told(request: GenerationRequest, said: Said, logprobs: torch.Tensor) -> None:
    """`said.logprobs` against `logprobs` [length, vocabulary]."""
    assert len(said.logprobs) == (0 if request.logprobs is None else LENGTH)
    for token, told, row in zip(said.ids, said.logprobs, logprobs, strict=False):
        assert told.logprob == pytest.approx(float(row[token]), abs=1e-4)
        likeliest = row.topk(request.logprobs or 0)
        assert [token_id for token_id, _ in told.top] == likeliest.indices.tolist()
        assert [logprob for _, logprob in told.top] == pytest.approx(likeliest.values.tolist(), abs=1e-4)


@pytest.mark.parametrize("said", [1, 7, LENGTH - 1])
def test_a_takeover_goes_on_exactly_beside_others(loop: Running, said: int) -> None:
    whole = loop.ask(*requests())
    rests = [
        replace(
            request, primed_ids=(*request.primed_ids, *answer.ids[:said]), max_new_tokens=request.max_new_tokens - said
        )
        for request, answer in zip(requests(), whole, strict=True)
    ]
    for answer, rest in zip(whole, loop.ask(*rests), strict=True):
        assert rest.ids == answer.ids[said:]
        before = [told.logprob for told in answer.logprobs[said:]]
        assert [told.logprob for told in rest.logprobs] == pytest.approx(before, abs=1e-4)


def test_seeds_differ_and_repeat(loop: Running) -> None:
    seeded = [replace(requests()[1], id=f"s{seed}", seed=seed) for seed in range(6)]
    first, second = loop.ask(*seeded), loop.ask(*seeded)
    assert first == second
    assert len({tuple(said.ids) for said in first}) == len(seeded)
