"""Log probabilities of the engine's ids in the words of the journal. Pure."""

from services.inference.engines.port import Likelihood
from shared.chat import ChatTokenizer
from shared.records import TokenCandidate, TokenLogprob


def token_logprob(tokenizer: ChatTokenizer, token_id: int, likelihood: Likelihood, end: int) -> TokenLogprob:
    """What is told of `token_id`, whose text is whole at code point `end` of the answer."""
    own = _candidate(tokenizer, token_id, likelihood.logprob)
    top = [_candidate(tokenizer, candidate, logprob) for candidate, logprob in likelihood.top]
    return TokenLogprob(token=own.token, logprob=own.logprob, bytes=own.bytes, end=end, top=top)


def _candidate(tokenizer: ChatTokenizer, token_id: int, logprob: float) -> TokenCandidate:
    spelled = tokenizer.bytes_of(token_id)
    return TokenCandidate(token=spelled.decode(errors="replace"), logprob=logprob, bytes=list(spelled))
