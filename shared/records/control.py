"""Records of the control plane: jobs, context, queries and replies, heartbeats, verdicts, dead letters."""

from typing import Any, Literal

from shared.records.base import (
    BackendReport,
    Item,
    Message,
    ModerationResult,
    Record,
    ReplyAddress,
    ResponseSpec,
    Sampling,
)
from shared.records.events import Accepted, AnyTerminal
from shared.records.journal import Requested


class Job(Record, frozen=True, kw_only=True, tag="job"):
    """Generate this. `journal_offset` is where the response's `requested` stands: a takeover reads from there."""

    response_id: str
    attempt: int
    prompt: list[Message]
    sampling: Sampling
    deadline_ms: int
    model: str
    journal_offset: int
    revision: str = ""

    @property
    def subject(self) -> str:
        return self.response_id

    @property
    def uid(self) -> str:
        return f"{self.response_id}/job/{self.attempt}"


class Stop(Record, frozen=True, kw_only=True, tag="stop"):
    """Free the slot of a superseded or ended claim. `claim` None: every claim on the response."""

    response_id: str
    claim: str | None = None
    reason: str = ""

    @property
    def subject(self) -> str:
        return self.response_id

    @property
    def uid(self) -> str:
        return f"{self.response_id}/stop/{self.claim or 'all'}"


class ContextRequested(Record, frozen=True, kw_only=True, tag="context_requested"):
    """A request whose context history must assemble: all that was said until the end of `base`, in front of
    `request.context`, what the gateway knows was said since. None: the response that the request goes on from, and
    nothing since."""

    request: Requested
    base: str | None = None

    @property
    def subject(self) -> str:
        spec = self.request.spec
        return spec.conversation or self.base or spec.previous_response_id or self.request.response_id

    @property
    def uid(self) -> str:
        return f"{self.request.response_id}/context_requested"


class Query(Record, frozen=True, kw_only=True):
    """Base of the request half of request/reply. `correlation_id` comes back on the reply."""

    correlation_id: str
    reply_to: ReplyAddress
    tenant: str

    @property
    def uid(self) -> str:
        return self.correlation_id


class GetResponse(Query, frozen=True, kw_only=True, tag="get_response"):
    """Ask history for a stored response."""

    response_id: str

    @property
    def subject(self) -> str:
        return self.response_id


class EraseResponse(Query, frozen=True, kw_only=True, tag="erase_response"):
    """Have history forget a response that the public log calls deleted, and tell when nothing of it can come back."""

    response_id: str

    @property
    def subject(self) -> str:
        return self.response_id


class CountInput(Query, frozen=True, kw_only=True, tag="count_input"):
    """Ask history how many tokens the prompt of `spec` would have, stored context included, by `deadline_ms`."""

    spec: ResponseSpec
    deadline_ms: int

    @property
    def subject(self) -> str:
        return self.spec.conversation or self.spec.previous_response_id or self.correlation_id


class Moderate(Query, frozen=True, kw_only=True, tag="moderate"):
    """Ask moderation what it makes of each text, by `deadline_ms`."""

    texts: list[str]
    deadline_ms: int

    @property
    def subject(self) -> str:
        return self.correlation_id


class ConversationQuery(Query, frozen=True, kw_only=True):
    """Base of what is asked about one conversation: all of it goes through one partition."""

    conversation_id: str

    @property
    def subject(self) -> str:
        return self.conversation_id


class CreateConversation(ConversationQuery, frozen=True, kw_only=True, tag="create_conversation"):
    """Have history begin a conversation by an id that the gateway minted, with `items` in it."""

    created_ms: int
    metadata: dict[str, str] = {}
    items: list[Item] = []


class GetConversation(ConversationQuery, frozen=True, kw_only=True, tag="get_conversation"):
    """Ask history for a conversation."""


class UpdateConversation(ConversationQuery, frozen=True, kw_only=True, tag="update_conversation"):
    """Have history replace a conversation's metadata."""

    metadata: dict[str, str]


class EraseConversation(ConversationQuery, frozen=True, kw_only=True, tag="erase_conversation"):
    """Have history forget a conversation, its items and the responses that ran in it."""


class AddItems(ConversationQuery, frozen=True, kw_only=True, tag="add_items"):
    """Have history append `items`, all or none, in this order, by ids that the gateway minted."""

    items: list[Item]


class ListItems(ConversationQuery, frozen=True, kw_only=True, tag="list_items"):
    """Ask history for up to `limit` items behind the item `after`; None: from that end where `order` begins."""

    limit: int
    order: Literal["asc", "desc"]
    after: str | None = None


class GetItem(ConversationQuery, frozen=True, kw_only=True, tag="get_item"):
    """Ask history for one item."""

    item_id: str


class EraseItem(ConversationQuery, frozen=True, kw_only=True, tag="erase_item"):
    """Have history forget one item, and the response that brought it."""

    item_id: str


class ReleaseConversation(Record, frozen=True, kw_only=True, tag="release_conversation"):
    """Nothing became of the response, so nothing public will tell that it no longer holds its conversation's lock."""

    conversation_id: str
    response_id: str
    tenant: str

    @property
    def subject(self) -> str:
        return self.conversation_id

    @property
    def uid(self) -> str:
        return f"{self.response_id}/release_conversation"


class Reply(Record, frozen=True, kw_only=True):
    """Base of the reply half; goes to the asking gateway's partition, keyed by its id."""

    gateway: str
    correlation_id: str

    @property
    def subject(self) -> str:
        return self.gateway

    @property
    def uid(self) -> str:
        return f"{self.correlation_id}/reply"


class Rejected(Reply, frozen=True, kw_only=True, tag="rejected"):
    """The request cannot be served; becomes the HTTP error `status` with `code`, `message` and `param`."""

    status: int
    code: str
    message: str
    param: str | None = None
    error_type: str = "invalid_request_error"


class ResponseFound(Reply, frozen=True, kw_only=True, tag="response_found"):
    """A stored response, as the two events from which every view of it is projected."""

    accepted: Accepted
    terminal: AnyTerminal


class ResponseErased(Reply, frozen=True, kw_only=True, tag="response_erased"):
    """The store holds nothing of the response, and takes nothing of it any more."""


class InputCounted(Reply, frozen=True, kw_only=True, tag="input_counted"):
    """The tokens of the prompt that was asked about."""

    input_tokens: int


class Moderated(Reply, frozen=True, kw_only=True, tag="moderated"):
    """One result per text that was asked about, in order."""

    results: list[ModerationResult]


class ConversationFound(Reply, frozen=True, kw_only=True, tag="conversation_found"):
    """A conversation as it stands, items aside."""

    conversation_id: str
    created_ms: int
    metadata: dict[str, str] = {}


class ConversationErased(Reply, frozen=True, kw_only=True, tag="conversation_erased"):
    """The store holds nothing of the conversation, and takes nothing of it any more."""


class ItemsFound(Reply, frozen=True, kw_only=True, tag="items_found"):
    """Items in the order that was asked for; `has_more`: behind the last there are others."""

    items: list[Item] = []
    has_more: bool = False


class Charge(Record, frozen=True, kw_only=True, tag="charge"):
    """A gateway wants to admit a request of `tenant`; whether it may, the order of this topic decides.

    `response_id` is the request's first response, `further` those of its other choices; of a request that changes a
    conversation they are the names of what it makes, or one of its own. `tokens` is the most that it
    can use: its prompt and the longest answer, for each choice. The limits are per minute, as the appending gateway
    knows them, so that every reader decides alike; None is no limit. `idempotency_key` is a digest of the client's,
    `fingerprint` one of what was asked; the key stands for these responses for `keep_ms`. `replaces` names the first
    response that the key stood for before, and of which nothing became.
    """

    response_id: str
    tenant: str
    tier: str
    tokens: int
    gateway: str = ""
    further: list[str] = []
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    idempotency_key: str | None = None
    fingerprint: str | None = None
    keep_ms: int = 3_600_000
    replaces: str | None = None

    @property
    def subject(self) -> str:
        return self.tenant

    @property
    def uid(self) -> str:
        return f"{self.response_id}/charge"


class Settlement(Record, frozen=True, kw_only=True, tag="settlement"):
    """What a charged request used in the end, `tokens` in all: the rest of its charge is the tenant's again."""

    response_id: str
    tenant: str
    tier: str
    tokens: int

    @property
    def subject(self) -> str:
        return self.tenant

    @property
    def uid(self) -> str:
        return f"{self.response_id}/settlement"


class Outcome(Record, frozen=True, kw_only=True, tag="outcome"):
    """What became of the request that an idempotency key stands for: its responses were `accepted`, or nothing became
    of it, and the key is free again."""

    response_id: str
    tenant: str
    idempotency_key: str
    accepted: bool

    @property
    def subject(self) -> str:
        return self.tenant

    @property
    def uid(self) -> str:
        return f"{self.response_id}/outcome"


class Heartbeat(Record, frozen=True, kw_only=True, tag="heartbeat"):
    """A sign of life, five a second from a thread of its own.

    `partitions`: what the service is assigned (a worker: its mailboxes; moderation: the journal partitions it
    owns; a gateway: its home partitions). `steps`: the engine's step counter. `waiting`: jobs without a slot.
    """

    service: Literal["gateway", "moderation", "inference", "history"]
    id: str
    state: Literal["starting", "ready", "draining"]
    seq: int
    detail: str = ""
    partitions: list[int] = []
    slots_free: int = 0
    slots_total: int = 0
    claims: list[str] = []
    steps: int = 0
    model: str = ""
    revision: str = ""
    context_window: int = 0
    waiting: int = 0

    @property
    def subject(self) -> str:
        return self.id

    @property
    def uid(self) -> str:
        return f"{self.id}/{self.seq}"


class Verdict(Record, frozen=True, kw_only=True, tag="verdict"):
    """One decision of moderation, without the text. `start`/`end` are code points of the screened text.

    `scores` and `thresholds` by category: of what decided, and what it was held against. `backends`: who was asked.
    """

    verdict_id: str
    response_id: str
    tenant: str
    stage: Literal["input", "output"]
    action: Literal["pass", "flag", "mask", "cut", "refuse"]
    policy: str
    window: int
    start: int
    end: int
    latency_ms: float
    category: str | None = None
    scores: dict[str, float] = {}
    thresholds: dict[str, float] = {}
    backends: list[BackendReport] = []

    @property
    def subject(self) -> str:
        return self.response_id

    @property
    def uid(self) -> str:
        return self.verdict_id


class PolicyKnown(Record, frozen=True, kw_only=True, tag="policy_known"):
    """A moderation policy under its name: `source` is its file (YAML). Whoever takes over a response that was accepted
    under it finds it here."""

    name: str
    source: str

    @property
    def subject(self) -> str:
        return self.name

    @property
    def uid(self) -> str:
        return self.name


class DeadLetter(Record, frozen=True, kw_only=True, tag="dead_letter"):
    """What could not be handled: the record as it was, where it came from and why it failed.

    `shortened`: the record was too long for its letter, which has the beginnings of its parts.
    """

    origin_topic: str
    origin_partition: int
    origin_offset: int
    service: str
    error: str
    attempts: int
    key: str | None = None
    value: str = ""
    headers: dict[str, str] = {}
    shortened: bool = False
    payload: dict[str, Any] = {}

    @property
    def subject(self) -> str:
        return self.key or ""

    @property
    def uid(self) -> str:
        return f"{self.origin_topic}/{self.origin_partition}/{self.origin_offset}"


class Redriven(Record, frozen=True, kw_only=True, tag="redriven"):
    """An operator sent a dead letter back to where it came from.

    The letter is the record at `letter_offset` beside this one; it now stands at `offset` of `partition` of its topic,
    and was sent back `times` times so far, this time included.
    """

    letter_offset: int
    partition: int
    offset: int
    times: int
    key: str | None = None

    @property
    def subject(self) -> str:
        return self.key or ""

    @property
    def uid(self) -> str:
        return f"redriven/{self.partition}/{self.offset}"
