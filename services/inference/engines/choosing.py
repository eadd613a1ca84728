"""Who says what in a step of continuous batching: each request chooses its token from the logits by its own rules.

The step of transformers, which accelerators capture as a graph, keeps the logits and takes the likeliest token of
each row. What single requests ask for beyond that happens after it, in plain code over their rows alone: so no shape
inside the captured part depends on data, and who asks for nothing pays nothing.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.logits_process import LogitsProcessorList

from services.inference.engines.port import GenerationRequest, Likelihood
from services.inference.engines.sampling import Draw, draw_tokens, likelihoods, uniform_number


class LogitsKeeper(ContinuousBatchingLogitsProcessorList):
    """Takes the place of the warpers, and passes the logits on as they are."""

    def __init__(self, room: torch.Tensor | None) -> None:
        """`room`: float32 [requests, vocabulary], where a captured graph leaves the logits each time that it runs;
        None where nothing is captured."""
        super().__init__(LogitsProcessorList())
        self.do_processing = True
        self._room = room
        self._scores = torch.empty(0, 0)

    def logits(self, rows: int) -> torch.Tensor:
        """Those of the step that ran last: float32 [rows, vocabulary]. Not to be changed."""
        return self._scores[:rows]

    def check_kwargs(self, kwargs: dict[str, Any]) -> None:
        """Requests are checked where they are made (GenerationRequest)."""

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, logits_processor_args: torch.Tensor
    ) -> torch.Tensor:
        """`scores`: float32 [requests, vocabulary], padded in a captured graph."""
        if self._room is None:
            self._scores = scores
        else:
            self._scores = self._room
            self._room[: scores.size(0)].copy_(scores)
        return scores


@dataclass(slots=True)
class Penalties:
    """What the tokens of one answer lose of their logits: `presence` each, and `frequency` for each time.

    OpenAI's formula: logit - frequency * count - presence * [count > 0].
    """

    presence: float
    frequency: float
    said: Counter[int]
    _amounts: torch.Tensor | None = None  # float32 [vocabulary]

    def penalised(self, logits: torch.Tensor) -> torch.Tensor:
        """A row of logits [vocabulary] as the next token is drawn from it."""
        if self._amounts is None:
            self._amounts = torch.zeros_like(logits)
            ids = torch.tensor(list(self.said), dtype=torch.int64, device=logits.device)
            self._amounts[ids] = torch.tensor([self._amount(token) for token in self.said], device=logits.device)
        return logits - self._amounts

    def count(self, token: int) -> None:
        """The answer says `token` (once more)."""
        self.said[token] += 1
        if self._amounts is not None:
            self._amounts[token] = self._amount(token)

    def _amount(self, token: int) -> float:
        """From the count alone, not added up: a takeover must come to the same float."""
        return self.presence + self.frequency * self.said[token]


@dataclass(slots=True)
class Choice:
    """How one request chooses its tokens, and how likely those were that are not delivered yet."""

    request: GenerationRequest
    position: int  # of the next token, 0 = the prompt's first
    penalties: Penalties | None
    likelihoods: list[Likelihood] = field(default_factory=list)

    @classmethod
    def of(cls, request: GenerationRequest) -> "Choice | None":
        """None: the likeliest token, and not a word about it, is all that is asked for."""
        penalties = None
        if request.presence_penalty or request.frequency_penalty:
            penalties = Penalties(request.presence_penalty, request.frequency_penalty, Counter(request.primed_ids))
        if not request.temperature and penalties is None and request.logprobs is None:
            return None
        return cls(request, len(request.context_ids), penalties)

    @property
    def chooses(self) -> bool:
        """Whether it may choose another token than the likeliest."""
        return self.request.temperature > 0 or self.penalties is not None

    def draw(self) -> Draw:
        """For the token at `position`. The request has a seed if it has a temperature."""
        request = self.request
        if not request.temperature:
            return Draw(temperature=0.0)
        assert request.seed is not None
        uniform = uniform_number(request.seed, self.position)
        return Draw(request.temperature, request.top_p, request.top_k, uniform)

    def take(self, count: int) -> tuple[Likelihood, ...]:
        """Those of the next `count` tokens to be delivered; none if nobody asked."""
        taken, self.likelihoods = self.likelihoods[:count], self.likelihoods[count:]
        return tuple(taken)


def choose(logits: torch.Tensor, choices: Sequence[Choice | None], tokens: torch.Tensor) -> None:
    """Let every request that has a choice make it.

    `logits`: float32 [n, vocabulary] as the model gave them; `choices`: one per row; `tokens`: [n], the likeliest of
    each row, replaced by what is chosen.
    """
    asking = [(row, choice) for row, choice in enumerate(choices) if choice is not None]
    if not asking:
        return
    if choosing := [(row, choice) for row, choice in asking if choice.chooses]:
        rows = torch.tensor([row for row, _ in choosing], device=logits.device)
        drawn = draw_tokens(_penalised(logits, rows, choosing), [choice.draw() for _, choice in choosing])
        tokens[rows] = drawn.to(tokens.dtype)
    _count(asking, tokens)
    _tell(logits, [(row, choice) for row, choice in asking if choice.request.logprobs is not None], tokens)


def _penalised(logits: torch.Tensor, rows: torch.Tensor, choosing: Sequence[tuple[int, Choice]]) -> torch.Tensor:
    """[len(rows), vocabulary]."""
    chosen = logits[rows]
    for index, (_, choice) in enumerate(choosing):
        if choice.penalties is not None:
            chosen[index] = choice.penalties.penalised(chosen[index])
    return chosen


def _count(asking: Sequence[tuple[int, Choice]], tokens: torch.Tensor) -> None:
    penalised = [(row, choice.penalties) for row, choice in asking if choice.penalties is not None]
    if penalised:
        said = tokens.tolist()
        for row, penalties in penalised:
            penalties.count(said[row])
    for _, choice in asking:
        choice.position += 1


def _tell(logits: torch.Tensor, telling: Sequence[tuple[int, Choice]], tokens: torch.Tensor) -> None:
    if telling:
        rows = torch.tensor([row for row, _ in telling], device=logits.device)
        told = likelihoods(logits[rows], tokens[rows], [choice.request.logprobs or 0 for _, choice in telling])
        for (_, choice), likelihood in zip(telling, told, strict=True):
            choice.likelihoods.append(likelihood)
