"""Records of `responses.events`, the public log: screened text only (DESIGN 3 and 6)."""

from typing import Literal

from shared.records.base import ModerationResult, Record, ResponseSpec, TokenLogprob, Usage


class EventRecord(Record, frozen=True, kw_only=True):
    """Written by the partition's owner only, stamped with its epoch of this response."""

    response_id: str
    epoch: int = 0

    @property
    def subject(self) -> str:
        return self.response_id

    @property
    def uid(self) -> str:
        # With the epoch: an owner that lost the partition and has it again says another thing than it said then.
        return f"{self.response_id}/{self.__struct_config__.tag}/{self.epoch}"


class Accepted(EventRecord, frozen=True, kw_only=True, tag="accepted"):
    """The input passed screening: the response exists for the public. Times are unix milliseconds.

    `moderation`, where the request asked for it: what was made of the input.
    """

    tenant: str
    spec: ResponseSpec
    policy: str
    created_ms: int
    deadline_ms: int
    input_tokens: int
    moderation: ModerationResult | None = None


class Screening(EventRecord, frozen=True, kw_only=True, tag="screening"):
    """A new owner took over: events of lower epochs that follow are to be ignored."""

    owner: str


class Delta(EventRecord, frozen=True, kw_only=True, tag="delta"):
    """Released text. `start` and `end` count code points of the RAW text; a masked piece is atomic.

    `policy` and `window` name the decision that released it. `logprobs`, where they were asked for, are those of the
    tokens that end inside; masked text has none.
    """

    start: int
    end: int
    text: str
    policy: str
    window: int
    logprobs: list[TokenLogprob] = []

    @property
    def uid(self) -> str:
        return f"{self.response_id}/delta/{self.epoch}/{self.start}"


class Terminal(EventRecord, frozen=True, kw_only=True):
    """Base of the four ends. `text` is the whole public text, so that a plain consumer needs nothing else.

    `logprobs` are all that the deltas had. `moderation`, where the request asked for it: what was made of the output,
    up to where it was cut.
    """

    tenant: str
    text: str
    usage: Usage
    finished_ms: int
    logprobs: list[TokenLogprob] = []
    moderation: ModerationResult | None = None


class Completed(Terminal, frozen=True, kw_only=True, tag="completed"):
    """The model finished by itself."""


class Incomplete(Terminal, frozen=True, kw_only=True, tag="incomplete"):
    """Ended by the token limit, or cut by moderation (`text` is then the clean part)."""

    reason: Literal["max_output_tokens", "content_filter"]


class Failed(Terminal, frozen=True, kw_only=True, tag="failed"):
    """Deadline, or no worker could finish it. `code` and `message` are for the client."""

    code: str
    message: str


class Cancelled(Terminal, frozen=True, kw_only=True, tag="cancelled"):
    """Cancelled by the client, or abandoned in the foreground."""


class Deleted(EventRecord, frozen=True, kw_only=True, tag="deleted"):
    """The tenant erased the response: replay must answer 404 from now on."""

    tenant: str


TERMINALS = (Completed, Incomplete, Failed, Cancelled)
AnyTerminal = Completed | Incomplete | Failed | Cancelled
Events = Accepted | Screening | Delta | Completed | Incomplete | Failed | Cancelled | Deleted
