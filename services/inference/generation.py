"""One claimed generation: engine outputs in, `tokens` records out. Pure."""

from collections.abc import Mapping

from opentelemetry.trace import Span

from services.inference.claims import Seam
from services.inference.engines.port import GenerationRequest, StepOutput
from shared.chat import ChatTokenizer
from shared.records import Finish, Job, Tokens


class Generation:
    """Holds the decoder and the next position; `claim` doubles as the engine's request id."""

    def __init__(
        self, job: Job, claim: str, mailbox: int, prompt_ids: tuple[int, ...], tokenizer: ChatTokenizer, span: Span
    ) -> None:
        self.job = job
        self.claim = claim
        self.mailbox = mailbox
        self.span = span
        self.running = False  # whether the engine has a slot for it
        self.trace: Mapping[str, str] = {}
        self._prompt_ids = prompt_ids
        self._tokenizer = tokenizer
        self._decoder = tokenizer.decode_stream()
        self._position = 0
        self._cached_tokens = 0

    @property
    def output_tokens(self) -> int:
        """How many tokens the response has so far, whoever said them."""
        return self._position

    @property
    def prompt_tokens(self) -> int:
        """Length of the rendered prompt."""
        return len(self._prompt_ids)

    def request(self, seam: Seam) -> GenerationRequest:
        """Prime the decoder at the seam and ask the engine to go on behind it."""
        self._decoder = self._tokenizer.decode_stream(seam.said)
        self._position = len(seam.said)
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
        )

    def finish_only(self, seam: Seam) -> Tokens:
        """The record of a takeover that finds nothing left to say."""
        assert seam.finish is not None
        self._decoder = self._tokenizer.decode_stream(seam.said)
        self._position = len(seam.said)
        rest = self._decoder.flush()
        return Tokens(
            response_id=self.job.response_id,
            claim=self.claim,
            position=self._position,
            ids=[],
            pieces=[rest] if rest else [],
            finish=Finish(reason=seam.finish, input_tokens=self.prompt_tokens),
        )

    def tokens(self, output: StepOutput) -> Tokens | None:
        """The record of one engine step; None if the step brought nothing that counts."""
        self._cached_tokens = max(self._cached_tokens, output.cached_tokens)
        reason = output.finish if output.finish in ("stop", "length") else None
        if not output.ids and reason is None:
            return None
        pieces = [self._piece(token) for token in output.ids]
        finish = None
        if reason is not None:
            rest = self._decoder.flush()
            pieces += [rest] if rest else []
            finish = Finish(reason=reason, input_tokens=self.prompt_tokens, cached_tokens=self._cached_tokens)
        record = Tokens(
            response_id=self.job.response_id,
            claim=self.claim,
            position=self._position,
            ids=list(output.ids),
            pieces=pieces,
            finish=finish,
        )
        self._position += len(output.ids)
        return record

    def _piece(self, token: int) -> str:
        return "" if token in self._tokenizer.eos_ids else self._decoder.push(token)
