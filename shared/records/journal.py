"""Records of `responses.journal`: everything that decides a response, in one order (DESIGN 3 and 5)."""

from typing import Literal

from shared.records.base import Message, Record, ReplyAddress, ResponseSpec, TokenLogprob, Value


class JournalRecord(Record, frozen=True, kw_only=True):
    """All records of a response go to the partition that its id names; the key is the id."""

    response_id: str

    @property
    def subject(self) -> str:
        return self.response_id

    @property
    def uid(self) -> str:
        return f"{self.response_id}/{self.__struct_config__.tag}"


class Requested(JournalRecord, frozen=True, kw_only=True, tag="requested"):
    """A client's valid request: the first record of every response. Times are unix milliseconds."""

    tenant: str
    spec: ResponseSpec
    created_ms: int
    deadline_ms: int
    input_tokens: int
    context: list[Message] = []
    priority: int = 0
    reply_to: ReplyAddress | None = None
    chain: str | None = None

    def prompt(self) -> list[Message]:
        """The turns to render, oldest first: instructions, stored context, new input."""
        head = [Message(role="system", parts=[self.spec.instructions])] if self.spec.instructions else []
        return [*head, *self.context, *self.spec.input]

    @property
    def affinity_key(self) -> str | None:
        """Requests with the same key prefer the same worker, whose prefix cache is warm; None: no preference."""
        spec = self.spec
        return spec.conversation or spec.prompt_cache_key or self.chain or spec.previous_response_id


class Dispatched(JournalRecord, frozen=True, kw_only=True, tag="dispatched"):
    """The owner sent job `attempt` (from 1) to a worker's mailbox (a partition of `generation.jobs`)."""

    attempt: int
    worker: str
    mailbox: int

    @property
    def uid(self) -> str:
        return f"{self.response_id}/dispatched/{self.attempt}"


class Claimed(JournalRecord, frozen=True, kw_only=True, tag="claimed"):
    """A worker took job `attempt`. The first claim of the highest attempt owns the generation."""

    claim: str
    attempt: int
    worker: str
    mailbox: int
    model: str = ""
    revision: str = ""

    @property
    def uid(self) -> str:
        return f"{self.response_id}/claimed/{self.claim}"


class Finish(Value, frozen=True, kw_only=True):
    """Why the model stopped by itself, and what the prompt cost."""

    reason: Literal["stop", "length"]
    input_tokens: int
    cached_tokens: int = 0


class Tokens(JournalRecord, frozen=True, kw_only=True, tag="tokens"):
    """Tokens `position` .. `position + len(ids)` of the response, said by `claim`.

    `pieces[i]` is the text that `ids[i]` completed: "" until its character is whole. The finish rides on the
    last record; a takeover that finds nothing left to say sends the finish with no ids. `pieces` may hold one
    entry more than `ids` on the finish: what the decoder still held back. `logprobs` has an entry for each of `ids`
    but the end of the turn, or none where nobody asked for them.
    """

    claim: str
    position: int
    ids: list[int]
    pieces: list[str]
    logprobs: list[TokenLogprob] = []
    finish: Finish | None = None

    @property
    def uid(self) -> str:
        return f"{self.response_id}/tokens/{self.claim}/{self.position}"


class Released(JournalRecord, frozen=True, kw_only=True, tag="released"):
    """The worker gives the claim up (shutdown, engine death, failed append): the owner dispatches anew.

    `full`: it had no free slot. That is back-pressure, not a failure, and does not count as an attempt.
    """

    claim: str
    attempt: int
    worker: str
    reason: str
    full: bool = False

    @property
    def uid(self) -> str:
        return f"{self.response_id}/released/{self.claim}"


class Cancel(JournalRecord, frozen=True, kw_only=True, tag="cancel"):
    """The client, or the owner on its behalf (`reason` "abandoned"), wants the response to end."""

    reason: Literal["requested", "abandoned"] = "requested"

    @property
    def uid(self) -> str:
        return f"{self.response_id}/cancel/{self.reason}"


class Cut(JournalRecord, frozen=True, kw_only=True, tag="cut"):
    """The owner ended the response.

    `policy`: refused input or violating output. `deadline`, `failed`: out of time, out of attempts; `code` and
    `message` then fill the client's error. `stage` "input" means that nothing was ever public.
    """

    reason: Literal["policy", "deadline", "failed"]
    stage: Literal["input", "output"] = "output"
    category: str | None = None
    code: str = "server_error"
    message: str = ""

    @property
    def uid(self) -> str:
        return f"{self.response_id}/cut/{self.stage}/{self.reason}"


class Presence(JournalRecord, frozen=True, kw_only=True):
    """Base of what a gateway tells of a response's followers there; `number` counts what it tells, of all responses."""

    gateway: str
    number: int = 0

    @property
    def uid(self) -> str:
        return f"{self.response_id}/{self.__struct_config__.tag}/{self.number}"


class Attached(Presence, frozen=True, kw_only=True, tag="attached"):
    """A gateway's first follower of this response arrived."""


class Detached(Presence, frozen=True, kw_only=True, tag="detached"):
    """A gateway's last follower of this response left."""


class Delete(JournalRecord, frozen=True, kw_only=True, tag="delete"):
    """The tenant erases a response that has ended; the owner then appends `deleted` to the public log."""

    tenant: str


Journal = Requested | Dispatched | Claimed | Tokens | Released | Cancel | Cut | Attached | Detached | Delete
