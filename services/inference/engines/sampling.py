"""From logits to the next token, per request, inside one batch of continuous batching.

transformers' own warpers draw from one global generator and cannot mix greedy with sampled requests (bfloat16 logits
tie often, so a tiny temperature is not greedy). Here the uniform number behind a token is a hash of the request's
seed and the token's absolute position. A takeover therefore draws the same numbers, and what one request draws never
depends on its neighbours in the batch.
"""

import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from services.inference.engines.port import Likelihood

# On a CPU, sorting a vocabulary takes longer than the forward pass of a small model; this many candidates almost
# always hold the nucleus, and where they do not, everything is sorted.
_SHORTLIST = 1_024
_COLDEST = 1e-6

LEAST_LOGPROB = -9_999.0
"""Stands for what is less likely, impossible or undefined, as with OpenAI: JSON has no infinities."""


@dataclass(frozen=True, slots=True)
class Draw:
    """How one token is drawn. `uniform` lies in [0, 1); `temperature` 0 takes the likeliest token, exactly."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    uniform: float = 0.0


def uniform_number(seed: int, position: int) -> float:
    """A number in [0, 1) for the token at `position` (0 = the prompt's first token) of a request with `seed`."""
    packed = struct.pack("<QQ", seed & (2**64 - 1), position)
    bits = int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little")
    return (bits >> 40) / 2**24  # the 24 bits of a float32's mantissa: rounding can never reach 1


def draw_tokens(logits: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    """One token per row: int64 [n].

    `logits` is float32 [n, vocabulary]. Rows cost only what they ask for, whatever the others do.
    """
    tokens = torch.empty(len(draws), dtype=torch.int64, device=logits.device)
    for draw_rows, chosen in _by_way(draws, logits.size(-1)).items():
        rows = torch.tensor(chosen, device=logits.device)
        tokens[rows] = draw_rows(logits[rows], _Parameters.of([draws[n] for n in chosen], logits)).squeeze(-1)
    return tokens


def likelihoods(logits: torch.Tensor, tokens: torch.Tensor, tops: Sequence[int]) -> list[Likelihood]:
    """How likely each row's token is, and the `tops` likeliest of the row.

    `logits` is float32 [n, vocabulary] as the model gave them, `tokens` [n].
    """
    mass = logits.logsumexp(-1, keepdim=True)
    own = _finite(logits.gather(-1, tokens.long().unsqueeze(-1)) - mass).squeeze(-1).tolist()
    best = logits.topk(min(max(tops), logits.size(-1)), dim=-1)
    likeliest = zip(best.indices.tolist(), _finite(best.values - mass).tolist(), strict=True)
    return [
        Likelihood(logprob, tuple(zip(ids[:top], values[:top], strict=True)))
        for logprob, top, (ids, values) in zip(own, tops, likeliest, strict=True)
    ]


def _finite(logprobs: torch.Tensor) -> torch.Tensor:
    return logprobs.nan_to_num(nan=LEAST_LOGPROB).clamp(min=LEAST_LOGPROB, max=0.0)


@dataclass(frozen=True, slots=True)
class _Parameters:
    """Draws in columns, [n] each, on the logits' device."""

    temperature: torch.Tensor
    top_p: torch.Tensor
    top_k: torch.Tensor
    uniform: torch.Tensor

    @classmethod
    def of(cls, draws: Sequence[Draw], logits: torch.Tensor) -> "_Parameters":
        device, vocabulary = logits.device, logits.size(-1)
        return cls(
            temperature=torch.tensor([draw.temperature for draw in draws], dtype=torch.float32, device=device),
            top_p=torch.tensor([draw.top_p for draw in draws], dtype=torch.float32, device=device),
            top_k=torch.tensor([min(draw.top_k or vocabulary, vocabulary) for draw in draws], device=device),
            uniform=torch.tensor([draw.uniform for draw in draws], dtype=torch.float32, device=device),
        )

    def of_rows(self, rows: torch.Tensor) -> "_Parameters":
        return _Parameters(self.temperature[rows], self.top_p[rows], self.top_k[rows], self.uniform[rows])


_Way: TypeAlias = "Callable[[torch.Tensor, _Parameters], torch.Tensor]"


def _by_way(draws: Sequence[Draw], vocabulary: int) -> dict[_Way, list[int]]:
    """The rows that each way of drawing takes; all of a row's parameters are known without its logits."""
    ways: dict[_Way, list[int]] = {}
    for row, draw in enumerate(draws):
        cut = draw.top_p < 1 or (draw.top_k is not None and draw.top_k < vocabulary)
        way = _take_likeliest if draw.temperature == 0 else _draw_nucleus if cut else _draw_whole
        ways.setdefault(way, []).append(row)
    return ways


def _take_likeliest(logits: torch.Tensor, _parameters: _Parameters) -> torch.Tensor:
    """[n, 1]; the first of equals."""
    return logits.argmax(-1, keepdim=True)


def _draw_whole(logits: torch.Tensor, parameters: _Parameters) -> torch.Tensor:
    """From the whole distribution, in the vocabulary's order; [n, 1]."""
    mass = _probabilities(logits, parameters).cumsum(-1)
    return _invert(mass, parameters.uniform).clamp(max=logits.size(-1) - 1)


def _draw_nucleus(logits: torch.Tensor, parameters: _Parameters) -> torch.Tensor:
    """From what top_k and top_p leave, on a CPU sorting no more than needed; [n, 1]."""
    probabilities = _probabilities(logits, parameters)
    vocabulary = logits.size(-1)
    shortlist = vocabulary if logits.device.type != "cpu" else min(_SHORTLIST, vocabulary)
    likeliest, ids = probabilities.topk(shortlist)
    tokens = ids.gather(-1, _draw_sorted(likeliest, parameters))
    if shortlist < vocabulary:
        beyond = (likeliest.sum(-1) < parameters.top_p) & (parameters.top_k > shortlist)
        if (rest := beyond.nonzero().squeeze(-1)).numel():
            likeliest, ids = probabilities[rest].sort(descending=True)
            tokens[rest] = ids.gather(-1, _draw_sorted(likeliest, parameters.of_rows(rest)))
    return tokens


def _probabilities(logits: torch.Tensor, parameters: _Parameters) -> torch.Tensor:
    return (logits / parameters.temperature.clamp(min=_COLDEST).unsqueeze(-1)).softmax(-1)


def _draw_sorted(likeliest: torch.Tensor, parameters: _Parameters) -> torch.Tensor:
    """The rank that is drawn among the `likeliest` [n, candidates] probabilities, cut by top_k and top_p; [n, 1].

    The nucleus is the smallest set of tokens whose mass reaches top_p (Holtzman et al., 2020); the likeliest token
    is always in it.
    """
    rank = torch.arange(likeliest.size(-1), device=likeliest.device)
    before = likeliest.cumsum(-1) - likeliest
    kept = (before < parameters.top_p.unsqueeze(-1)) & (rank < parameters.top_k.unsqueeze(-1))
    kept[:, 0] = True
    position = _invert((likeliest * kept).cumsum(-1), parameters.uniform)
    return position.minimum(kept.sum(-1, keepdim=True) - 1)


def _invert(mass: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The first index whose cumulated mass passes `uniform` of the whole; [n, 1]."""
    return torch.searchsorted(mass, uniform.unsqueeze(-1) * mass[:, -1:], right=True)
