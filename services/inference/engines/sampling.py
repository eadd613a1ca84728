"""From logits to the next token, per request, inside one batch of continuous batching.

transformers' own warpers draw from one global generator and cannot mix greedy with sampled requests (bfloat16 logits
tie often, so a tiny temperature is not greedy). Here the uniform number behind a token is a hash of the request's
seed and the token's absolute position. A takeover therefore draws the same numbers, and what one request draws never
depends on its neighbours in the batch.
"""

import hashlib
import struct
from typing import Any

import torch
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.continuous_batching.requests import FutureRequestState
from transformers.generation.logits_process import LogitsProcessorList

# On a CPU, sorting a vocabulary takes longer than the forward pass of a small model; this many candidates almost
# always hold the nucleus, and where they do not, everything is sorted.
_SHORTLIST = 1_024
_NO_TOP_K = 2**31 - 1
_COLDEST = 1e-6
_ROWS = 4


class RequestSampler(ContinuousBatchingLogitsProcessorList):
    """Takes the place of the warpers: it raises the drawn token above all others, and argmax then finds it.

    Arguments travel in the batch's int32 storage of shape [4, requests]: temperature, top_p and the uniform number
    as float32 bits, top_k as it is. A temperature of 0 leaves the logits alone.
    """

    def __init__(self) -> None:
        super().__init__(LogitsProcessorList())
        self.tensors_required = _ROWS
        self.do_processing = True

    def check_kwargs(self, kwargs: dict[str, Any]) -> None:
        """Requests are checked where they are made (GenerationRequest)."""

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        """Greedy, for the padding of captured graphs; shape [4, 1]."""
        int32_tensor.copy_(_columns([(0.0, 1.0, _NO_TOP_K, 0.0)]).to(int32_tensor.device))

    def prepare_tensor_args(
        self, requests_in_batch: list[FutureRequestState], arg_storage: torch.Tensor
    ) -> torch.Tensor:
        arguments = [_arguments(future.state) for future in requests_in_batch if future.has_new_token]
        if arguments:
            arg_storage[:, : len(arguments)] = _columns(arguments).to(arg_storage.device)
        return arg_storage

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, logits_processor_args: torch.Tensor
    ) -> torch.Tensor:
        """`scores`: float32 [requests, vocabulary]; changed in place."""
        temperature, top_p, top_k, uniform = logits_processor_args[:, : scores.size(0)]
        return raise_sampled(
            scores,
            temperature=temperature.view(torch.float32),
            top_p=top_p.view(torch.float32),
            top_k=top_k,
            uniform=uniform.view(torch.float32),
        )


def uniform_number(seed: int, position: int) -> float:
    """A number in [0, 1) for the token at `position` (0 = the prompt's first token) of a request with `seed`."""
    packed = struct.pack("<QQ", seed & (2**64 - 1), position)
    bits = int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little")
    return (bits >> 40) / 2**24  # the 24 bits of a float32's mantissa: rounding can never reach 1


def raise_sampled(
    scores: torch.Tensor,
    *,
    temperature: torch.Tensor,
    top_p: torch.Tensor,
    top_k: torch.Tensor,
    uniform: torch.Tensor,
) -> torch.Tensor:
    """Set the drawn token of each row with a temperature above 0 to +inf.

    `scores` is float32 [n, vocabulary], the parameters are [n]. On a CPU only the rows that need it are worked on;
    on an accelerator all rows are, without branches on data, so that the step can be captured as a graph.
    """
    sampled = temperature > 0
    if scores.device.type != "cpu":
        tokens = _draw_sorted(_tempered(scores, temperature), top_p, top_k, uniform, scores.size(-1))
        highest = torch.where(sampled.unsqueeze(-1), torch.inf, scores.gather(-1, tokens))
        return scores.scatter_(-1, tokens, highest)
    truncated = sampled & ((top_p < 1) | (top_k < scores.size(-1)))
    for rows, draw in ((sampled & ~truncated, _draw), (truncated, _draw_short)):
        chosen = rows.nonzero().squeeze(-1)
        if chosen.numel():
            logits = _tempered(scores[chosen], temperature[chosen])
            tokens = draw(logits, top_p[chosen], top_k[chosen], uniform[chosen])
            scores[chosen.unsqueeze(-1), tokens] = torch.inf
    return scores


def _tempered(logits: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    return logits / temperature.clamp(min=_COLDEST).unsqueeze(-1)


def _draw(logits: torch.Tensor, _top_p: torch.Tensor, _top_k: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """From the whole distribution, in the vocabulary's order; [n, 1]."""
    mass = logits.softmax(-1).cumsum(-1)
    return _invert(mass, uniform).clamp(max=logits.size(-1) - 1)


def _draw_short(logits: torch.Tensor, top_p: torch.Tensor, top_k: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """From the nucleus, sorting no more than needed; [n, 1]."""
    shortlist = min(_SHORTLIST, logits.size(-1))
    covered = logits.softmax(-1).topk(shortlist).values.sum(-1)
    tokens = _draw_sorted(logits, top_p, top_k, uniform, shortlist)
    rest = ((covered < top_p) & (top_k > shortlist)).nonzero().squeeze(-1)
    if rest.numel():
        tokens[rest] = _draw_sorted(logits[rest], top_p[rest], top_k[rest], uniform[rest], logits.size(-1))
    return tokens


def _draw_sorted(
    logits: torch.Tensor, top_p: torch.Tensor, top_k: torch.Tensor, uniform: torch.Tensor, candidates: int
) -> torch.Tensor:
    """From the `candidates` likeliest tokens, cut by top_k and top_p; [n, 1].

    The nucleus is the smallest set of tokens whose mass reaches top_p (Holtzman et al., 2020); the likeliest token
    is always in it.
    """
    likeliest, tokens = logits.softmax(-1).topk(candidates)
    rank = torch.arange(candidates, device=logits.device)
    before = likeliest.cumsum(-1) - likeliest
    kept = (before < top_p.unsqueeze(-1)) & (rank < top_k.unsqueeze(-1))
    kept[:, 0] = True
    position = _invert((likeliest * kept).cumsum(-1), uniform)
    return tokens.gather(-1, position.minimum(kept.sum(-1, keepdim=True) - 1))


def _invert(mass: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The first index whose cumulated mass passes `uniform` of the whole; [n, 1]."""
    return torch.searchsorted(mass, uniform.unsqueeze(-1) * mass[:, -1:], right=True)


def _arguments(state: Any) -> tuple[float, float, int, float]:
    chosen = state.logit_processor_kwargs
    if not chosen.get("temperature"):
        return 0.0, 1.0, _NO_TOP_K, 0.0
    # position_offset is how many tokens the model will have read: the absolute position of the token to be drawn
    return (
        chosen["temperature"],
        chosen["top_p"],
        chosen["top_k"] or _NO_TOP_K,
        uniform_number(chosen["seed"], state.position_offset),
    )


def _columns(arguments: list[tuple[float, float, int, float]]) -> torch.Tensor:
    """int32 [4, n]."""
    temperature, top_p, top_k, uniform = zip(*arguments, strict=True)
    floats = [torch.tensor(row, dtype=torch.float32).view(torch.int32) for row in (temperature, top_p, uniform)]
    return torch.stack([floats[0], floats[1], torch.tensor(top_k, dtype=torch.int32), floats[2]])
