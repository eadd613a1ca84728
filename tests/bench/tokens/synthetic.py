"""Records of responses that nobody asked for: what a component reads when it is measured alone. Pure."""

from dataclasses import dataclass

from shared.ids import new_id, new_response_id, parse_response_id
from shared.records import (
    Claimed,
    Delta,
    Job,
    Message,
    ReplyAddress,
    Requested,
    ResponseSpec,
    Sampling,
    Tokens,
)

GATEWAY = "bench-gateway"
WORKER = "bench-worker"
OWNER = "bench-owner"
MAILBOX = 0
POLICY = "bench@0"
PIECE = " river"
"""A word as the default model's vocabulary has them: one token of six characters."""
_TOKEN_ID = 8051
_HOUR_MS = 3_600_000


@dataclass
class Synthetic:
    """One response: the records of its life, its tokens one by one."""

    response_id: str
    created_ms: int
    claim: str
    model: str
    position: int = 0

    @classmethod
    def new(cls, partition: int, model: str) -> "Synthetic":
        minted = new_response_id(partition)
        return cls(minted.text, minted.created_ms, new_id("claim"), model)

    @classmethod
    def of(cls, response_id: str, model: str) -> "Synthetic":
        """One that somebody else asked for."""
        return cls(response_id, parse_response_id(response_id).created_ms, new_id("claim"), model)

    def requested(self) -> Requested:
        """In the foreground, followed by `GATEWAY`."""
        return Requested(
            response_id=self.response_id,
            tenant="bench",
            spec=self._spec(),
            created_ms=self.created_ms,
            deadline_ms=self.created_ms + _HOUR_MS,
            input_tokens=12,
            reply_to=ReplyAddress(gateway=GATEWAY, partition=0),
        )

    def claimed(self) -> Claimed:
        """By `WORKER`."""
        return Claimed(response_id=self.response_id, claim=self.claim, attempt=1, worker=WORKER, mailbox=MAILBOX)

    def job(self, max_tokens: int) -> Job:
        """The first attempt."""
        return Job(
            response_id=self.response_id,
            attempt=1,
            prompt=self._spec().input,
            sampling=Sampling(temperature=0.0, max_output_tokens=max_tokens),
            deadline_ms=self.created_ms + _HOUR_MS,
            model=self.model,
            journal_offset=0,
        )

    def tokens(self) -> Tokens:
        """The next token, as a worker writes it."""
        self.position += 1
        return Tokens(
            response_id=self.response_id,
            claim=self.claim,
            position=self.position - 1,
            ids=[_TOKEN_ID],
            pieces=[PIECE],
        )

    def delta(self) -> Delta:
        """The next token, as an owner publishes it that holds nothing back."""
        return next_delta(self.response_id, self._next_start())

    def _next_start(self) -> int:
        self.position += 1
        return (self.position - 1) * len(PIECE)

    def _spec(self) -> ResponseSpec:
        return ResponseSpec(
            model=self.model, input=[Message(role="user", parts=[f"Tell me about {self.response_id}."])]
        )


def next_delta(response_id: str, start: int, text: str = PIECE) -> Delta:
    """`text` at the code point `start`."""
    end = start + len(text)
    return Delta(response_id=response_id, start=start, end=end, text=text, policy=POLICY, window=end - 1)
