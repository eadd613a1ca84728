"""The topic registry: the one declaration from which topics, ACLs, documents and checks are made (DESIGN 3).

To add a topic, add a `Topic` here and an example of each record type to `shared/records/examples/`. Services
produce and consume only through `shared.log`, which asks this registry; a test walks it.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from functools import cached_property
from typing import Any, get_args

from shared.errors import TopicError
from shared.records import control, conversations, events, journal
from shared.records.base import Record
from shared.records.codec import RecordDecoder


class Service(StrEnum):
    """The four services; also the OpenTelemetry `service.name`."""

    GATEWAY = "gateway"
    MODERATION = "moderation"
    INFERENCE = "inference"
    HISTORY = "history"


class Visibility(StrEnum):
    """`public` topics are documented for other teams; `internal` ones carry what nobody else may read."""

    PUBLIC = "public"
    INTERNAL = "internal"


class Partitioning(StrEnum):
    """How a record finds its partition."""

    FROM_ID = "from the response id"
    MAILBOX = "the worker's mailbox"
    KEY = "hash of the key"
    OWN = "the addressee's own"


ALL = frozenset(Service)


@dataclass(frozen=True)
class Topic:
    """One topic. `partitions` 0 means "as many as `CHATMESH_PARTITIONS`" (32, embedded 8)."""

    name: str
    visibility: Visibility
    partitioning: Partitioning
    key: str
    types: Any
    producers: frozenset[Service]
    consumers: frozenset[Service]
    summary: str
    retention: timedelta
    partitions: int = 0
    log_append_time: bool = False
    max_message_bytes: int = 4 * 1024 * 1024
    config: dict[str, str] = field(default_factory=dict)

    @cached_property
    def decoder(self) -> RecordDecoder[Any]:
        return RecordDecoder(self.types)

    @cached_property
    def record_types(self) -> tuple[type[Record], ...]:
        return get_args(self.types) or (self.types,)

    def broker_config(self, min_insync_replicas: int) -> dict[str, str]:
        """The topic's settings on the broker."""
        return {
            "cleanup.policy": "delete",
            "retention.ms": str(int(self.retention.total_seconds() * 1000)),
            "min.insync.replicas": str(min_insync_replicas),
            "max.message.bytes": str(self.max_message_bytes),
            **({"message.timestamp.type": "LogAppendTime"} if self.log_append_time else {}),
            **self.config,
        }


JOURNAL = Topic(
    "responses.journal",
    visibility=Visibility.INTERNAL,
    partitioning=Partitioning.FROM_ID,
    key="response id",
    types=journal.Journal,
    producers=ALL,
    consumers=frozenset({Service.MODERATION, Service.INFERENCE}),
    summary="Everything that decides a response, in one order; holds unscreened text.",
    retention=timedelta(hours=24),
    log_append_time=True,
)
EVENTS = Topic(
    "responses.events",
    visibility=Visibility.PUBLIC,
    partitioning=Partitioning.FROM_ID,
    key="response id",
    types=events.Events,
    producers=frozenset({Service.MODERATION}),
    consumers=frozenset({Service.GATEWAY, Service.HISTORY, Service.MODERATION}),
    summary="The public log of every response: accepted, screened deltas, one terminal with usage and full text.",
    retention=timedelta(days=7),
    log_append_time=True,
)
JOBS = Topic(
    "generation.jobs",
    visibility=Visibility.INTERNAL,
    partitioning=Partitioning.MAILBOX,
    key="response id",
    types=control.Job | control.Stop,
    producers=frozenset({Service.MODERATION}),
    consumers=frozenset({Service.INFERENCE}),
    summary="Jobs and stops, each to the mailbox of one worker.",
    retention=timedelta(hours=24),
)
CONTEXT = Topic(
    "context.requested",
    visibility=Visibility.INTERNAL,
    partitioning=Partitioning.KEY,
    key="conversation or parent id",
    types=control.ContextRequested,
    producers=frozenset({Service.GATEWAY}),
    consumers=frozenset({Service.HISTORY}),
    summary="Requests that need stored context before they enter the journal.",
    retention=timedelta(hours=24),
)
HISTORY_QUERIES = Topic(
    "history.queries",
    visibility=Visibility.INTERNAL,
    partitioning=Partitioning.KEY,
    key="subject",
    types=control.GetResponse
    | control.EraseResponse
    | control.CountInput
    | control.CreateConversation
    | control.GetConversation
    | control.UpdateConversation
    | control.EraseConversation
    | control.AddItems
    | control.ListItems
    | control.GetItem
    | control.EraseItem
    | control.ReleaseConversation,
    producers=frozenset({Service.GATEWAY, Service.MODERATION}),
    consumers=frozenset({Service.HISTORY}),
    summary="Questions to the store, and what it is to keep, to release or to forget.",
    retention=timedelta(hours=1),
)
MODERATION_QUERIES = Topic(
    "moderation.queries",
    visibility=Visibility.INTERNAL,
    partitioning=Partitioning.KEY,
    key="correlation id",
    types=control.Moderate,
    producers=frozenset({Service.GATEWAY}),
    consumers=frozenset({Service.MODERATION}),
    summary="Texts that clients want judged; holds unscreened text.",
    retention=timedelta(hours=1),
)
POLICIES = Topic(
    "moderation.policies",
    visibility=Visibility.INTERNAL,
    partitioning=Partitioning.KEY,
    key="policy name",
    types=control.PolicyKnown,
    producers=frozenset({Service.MODERATION}),
    consumers=frozenset({Service.MODERATION}),
    summary="Every moderation policy that responses were accepted under, by its name.",
    retention=timedelta(days=7),
    partitions=1,
    config={"cleanup.policy": "compact"},
)
CONVERSATIONS = Topic(
    "conversations.events",
    visibility=Visibility.PUBLIC,
    partitioning=Partitioning.KEY,
    key="conversation id",
    types=conversations.ConversationEvents,
    producers=frozenset({Service.HISTORY}),
    consumers=frozenset(),
    summary="What becomes of conversations: created, updated (metadata, items), deleted; without what was said.",
    retention=timedelta(days=7),
    log_append_time=True,
)
REPLIES = Topic(
    "gateway.replies",
    visibility=Visibility.INTERNAL,
    partitioning=Partitioning.OWN,
    key="gateway id",
    types=control.Rejected
    | control.ResponseFound
    | control.ResponseErased
    | control.InputCounted
    | control.ConversationFound
    | control.ConversationErased
    | control.ItemsFound
    | control.Moderated,
    producers=frozenset({Service.HISTORY, Service.MODERATION}),
    consumers=frozenset({Service.GATEWAY}),
    summary="Answers to one gateway; unknown correlation ids are dropped.",
    retention=timedelta(hours=1),
)
LEDGER = Topic(
    "gateway.ledger",
    visibility=Visibility.INTERNAL,
    partitioning=Partitioning.KEY,
    key="tenant",
    types=control.Charge | control.Settlement | control.Outcome,
    producers=frozenset({Service.GATEWAY}),
    consumers=frozenset({Service.GATEWAY}),
    summary="What tenants ask for and use: one order, over all gateways, decides rate limits and repeated requests.",
    retention=timedelta(hours=24),
    log_append_time=True,
)
HEARTBEATS = Topic(
    "service.heartbeats",
    visibility=Visibility.INTERNAL,
    partitioning=Partitioning.KEY,
    key="service id",
    types=control.Heartbeat,
    producers=ALL,
    consumers=ALL,
    summary="Five signs of life a second from every service: state, assignments, free slots, claims.",
    retention=timedelta(minutes=10),
    partitions=1,
    log_append_time=True,
    config={"segment.ms": "60000"},
)
VERDICTS = Topic(
    "moderation.verdicts",
    visibility=Visibility.PUBLIC,
    partitioning=Partitioning.FROM_ID,
    key="response id",
    types=control.Verdict,
    producers=frozenset({Service.MODERATION}),
    consumers=frozenset(),
    summary="Moderation's decisions for auditors, without the text.",
    retention=timedelta(days=7),
)

_SOURCES = (JOURNAL, EVENTS, JOBS, CONTEXT, HISTORY_QUERIES, MODERATION_QUERIES)


def dead_letter_topic(source: Topic) -> Topic:
    """The dead-letter queue of `source`: read by operators only."""
    return Topic(
        f"{source.name}.dlq",
        visibility=Visibility.INTERNAL,
        partitioning=source.partitioning,
        key=source.key,
        types=control.DeadLetter,
        producers=source.consumers | source.producers,
        consumers=frozenset(),
        summary=f"Records of {source.name} that could not be handled, with error, attempts and origin.",
        retention=timedelta(days=7),
        partitions=1,
    )


DEAD_LETTERS: dict[str, Topic] = {source.name: dead_letter_topic(source) for source in _SOURCES}

REGISTRY: dict[str, Topic] = {
    topic.name: topic
    for topic in (
        JOURNAL,
        EVENTS,
        JOBS,
        CONTEXT,
        HISTORY_QUERIES,
        MODERATION_QUERIES,
        POLICIES,
        CONVERSATIONS,
        REPLIES,
        LEDGER,
        HEARTBEATS,
        VERDICTS,
        *DEAD_LETTERS.values(),
    )
}


def assert_may_produce(topic: Topic, service: Service, record: Record) -> None:
    """Raises TopicError unless the registry lets `service` produce `record` to `topic`."""
    if service not in topic.producers:
        raise TopicError(f"{service} may not produce to {topic.name}: allowed are {sorted(topic.producers)}")
    if not isinstance(record, topic.record_types):
        raise TopicError(f"{topic.name} does not carry records of type {type(record).__name__}")


def assert_may_consume(topic: Topic, service: Service | None) -> None:
    """Raises TopicError unless the registry lets `service` consume `topic`. None: whoever reads is no service of the
    mesh (an operator's tool, say); public topics are for them too."""
    if service is None:
        if topic.visibility is not Visibility.PUBLIC:
            raise TopicError(f"only services may consume {topic.name}: it is internal")
    elif service not in topic.consumers:
        raise TopicError(f"{service} may not consume {topic.name}: allowed are {sorted(topic.consumers)}")
