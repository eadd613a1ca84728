"""One claimed generation: engine outputs in, `tokens` records out. Pure."""

from collections.abc import Mapping
from typing import Literal, TypeAlias

from opentelemetry.trace import Span

from services.inference.claims import Seam, seam_at
from services.inference.engines.port import GenerationRequest, StepOutput
from services.inference.logprobs import token_logprob
from services.inference.meter import Timing
from services.inference.text import AnswerText
from shared.chat import ChatTokenizer
from shared.records import Finish, Job, TokenLogprob, Tokens

Ended: TypeAlias = Literal["stop", "length"]


class Generation:
    """Holds the text so far and the next position; `claim` doubles as the engine's request id."""

    def __init__(
        self, job: Job, claim: str, mailbox: int, prompt_ids: tuple[int, ...], tokenizer: ChatTokenizer, span: Span
    ) -> None:
        self.job = job
        self.claim = claim
        self.mailbox = mailbox
        self.span = span
        self.timing = Timing()
        self.running = False  # whether the engine has a slot for it
        self.trace: Mapping[str, str] = {}
        self._prompt_ids = prompt_ids
        self._tokenizer = tokenizer
        self._text = AnswerText(tokenizer, job.sampling.stop)
        self._position = 0
        self._cached_tokens = 0

    @property
    def output_tokens(self) -> int:
        """How many tokens the response has so far, whoever said them."""
        return self._position

    @property
    def cached_tokens(self) -> int:
        """How many of the prompt's tokens the engine knew already."""
        return self._cached_tokens

    @property
    def prompt_tokens(self) -> int:
        """Length of the rendered prompt."""
        return len(self._prompt_ids)

    def resume(self, said: tuple[int, ...], limit: int) -> Seam:
        """Stand behind `said`, which may be all that the answer's `limit` or its text allow for."""
        self._text = AnswerText(self._tokenizer, self.job.sampling.stop, said)
        self._position = len(said)
        return seam_at(said, limit, self._tokenizer.eos_ids, stopped=self._text.stopped)

    def request(self, seam: Seam) -> GenerationRequest:
        """Ask the engine to go on at the seam."""
        sampling = self.job.sampling
        return GenerationRequest(
            id=self.claim,
            prompt_ids=self._prompt_ids,
            primed_ids=seam.said,
            max_new_tokens=seam.remaining,
            eos_ids=self._tokenizer.eos_ids,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            seed=sampling.seed,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            logprobs=sampling.logprobs,
        )

    def finish_only(self, seam: Seam) -> Tokens:
        """The record of a takeover that finds nothing left to say."""
        assert seam.finish is not None
        return self._record([], [], [], seam.finish)

    def tokens(self, output: StepOutput) -> Tokens | None:
        """The record of one engine step; None if the step brought nothing that counts.

        It carries a finish also where a stop string ends what the engine would go on with: then the ids end with the
        one that completes the string, and the engine's further outputs count for nothing.
        """
        self._cached_tokens = max(self._cached_tokens, output.cached_tokens)
        pieces: list[str] = []
        logprobs: list[TokenLogprob] = []
        for index, token in enumerate(output.ids):
            pieces.append(self._text.push(token))
            if output.logprobs and token not in self._tokenizer.eos_ids:  # the end of a turn is no part of its text
                logprobs.append(token_logprob(self._tokenizer, token, output.logprobs[index], self._text.end))
            if self._text.stopped:
                break
        reason: Ended | None = output.finish if output.finish in ("stop", "length") else None
        if self._text.stopped:
            reason = "stop"
        if not pieces and reason is None:
            return None
        return self._record(list(output.ids[: len(pieces)]), pieces, logprobs, reason)

    def _record(self, ids: list[int], pieces: list[str], logprobs: list[TokenLogprob], reason: Ended | None) -> Tokens:
        """`pieces` gets what was held back until the finish as one more entry."""
        finish = None
        if reason is not None:
            rest = self._text.rest()
            pieces = [*pieces, rest] if rest else pieces
            finish = Finish(
                reason="stop" if self._text.stopped else reason,
                input_tokens=self.prompt_tokens,
                cached_tokens=self._cached_tokens,
            )
        position = self._position
        self._position += len(ids)
        return Tokens(
            response_id=self.job.response_id,
            claim=self.claim,
            position=position,
            ids=ids,
            pieces=pieces,
            logprobs=logprobs,
            finish=finish,
        )
