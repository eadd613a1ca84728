"""Log probabilities of tokens as OpenAI's clients know them; both dialects write them alike. Pure."""

from collections.abc import Sequence
from typing import Any

from shared.records import TokenCandidate, TokenLogprob


def token_logprobs(logprobs: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """An entry per token: itself, and its likeliest rivals in `top_logprobs`."""
    return [{**_candidate(said), "top_logprobs": [_candidate(rival) for rival in said.top]} for said in logprobs]


def _candidate(token: TokenCandidate) -> dict[str, Any]:
    """`bytes` is a list always: SDKs validate it so, and a token without bytes of its own has none."""
    return {"token": token.token, "bytes": token.bytes or [], "logprob": token.logprob}
