"""The topic registry: the one declaration from which topics, ACLs, documents and checks are made (DESIGN 3).

To add a topic, add a `Topic` here and an example of each record type to `shared/records/examples/`, then `make
asyncapi`. Services produce and consume only through `shared.log`, which asks this registry; a test walks it.
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


class Outsider(StrEnum):
    """Who reads and writes topics without being one of the services.

    A `consumer` reads what is public. An `operator`, as `deploy/terminal` has tools for, also sees signs of life and
    dead letters, and sends letters back where they can go back; the text that nobody has screened is not for tools.
    """

    CONSUMER = "consumer"
    OPERATOR = "operator"


Party = Service | Outsider


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


ALL: frozenset[Party] = frozenset(Service)

COMPATIBILITY = (
    "Fields are added with a default only, and never removed, renamed or retyped; release N reads what releases N-1 "
    "and N wrote. Consumers are to ignore fields and record types that they do not know. The header "
    "`ce_schemaversion` rises when consumers have to change."
)
"""What holds for the records of every topic; `python -m deploy.events diff` holds a change to it."""


@dataclass(frozen=True)
class Topic:
    """One topic. `partitions` 0 means "as many as `CHATMESH_PARTITIONS`" (32, embedded 8).

    Public topics are also for those who are no service, and need not name them as consumers.
    `summary`, `ordering` and `delivery` are words for those who read the topic: what it carries, which order they may
    rely on, and how often a record may stand there and what makes it count once.
    `sent_back`: the records that operators may send back here from its dead letters. Those are the ones where handling
    them late comes to what handling them in time would have come to, and where nobody was told that it failed.
    """

    name: str
    visibility: Visibility
    partitioning: Partitioning
    key: str
    types: Any
    producers: frozenset[Party]
    consumers: frozenset[Party]
    summary: str
    ordering: str
    delivery: str
    retention: timedelta
    partitions: int = 0
    log_append_time: bool = False
    max_message_bytes: int = 4 * 1024 * 1024
    config: dict[str, str] = field(default_factory=dict)
    sent_back: tuple[type[Record], ...] = ()

    @cached_property
    def decoder(self) -> RecordDecoder[Any]:
        return RecordDecoder(self.types)

    @cached_property
    def record_types(self) -> tuple[type[Record], ...]:
        return get_args(self.types) or (self.types,)

    @property
    def parties(self) -> frozenset[Party]:
        """Who produces or consumes it."""
        return self.producers | self.consumers

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
    ordering=(
        "All records of a response stand in one partition, and their order decides every race: the first claim of the "
        "highest attempt owns the generation, the first terminal decision wins. Nothing is promised between responses."
    ),
    delivery=(
        "At least once, and a late copy may stand behind later records. A claim counts once by its name, tokens by "
        "claim and position, every other kind as `shared/folds/journal.py` has it: whoever reads this topic runs that "
        "fold."
    ),
    retention=timedelta(hours=24),
    log_append_time=True,
    sent_back=(journal.Cancel, journal.Delete),
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
    ordering=(
        "All records of a response stand in one partition, in the order in which they count: `accepted`, then `delta`s "
        "that continue each other, then one terminal (`completed`, `incomplete`, `failed` or `cancelled`), later "
        "perhaps `deleted`. Responses interleave, and nothing is promised between them."
    ),
    delivery=(
        "At least once, and what a superseded owner still wrote may stand among them. Per response: ignore every "
        "record but `deleted` whose `epoch` is lower than the highest seen on its `accepted`, `screening` or terminal; "
        "take a `delta` only if its `start` is the `end` of the one before (0 for the first); take the first of every "
        "other kind, and nothing after the terminal but `deleted`."
    ),
    retention=timedelta(days=7),
    log_append_time=True,
    sent_back=(events.Completed, events.Incomplete, events.Failed, events.Cancelled, events.Deleted),
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
    ordering=(
        "A mailbox holds what owners sent to its worker in the order in which each of them sent it; nothing is "
        "promised between owners or mailboxes."
    ),
    delivery=(
        "At least once. A worker claims what it takes in the journal, whose order decides; a `stop` may come twice, or "
        "for a claim that has ended."
    ),
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
    ordering=(
        "Requests that go on from the same conversation or response share a partition. They are handled side by side: "
        "the lock in the store decides whose turn it is."
    ),
    delivery=(
        "At least once. The response's id names its turn and its lock, so that a request that is handled again comes "
        "to the same."
    ),
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
    ordering=(
        "Questions about one conversation or response share a partition. They are handled side by side, and what must "
        "have an order has it in the store."
    ),
    delivery=(
        "At least once. Names are minted by whoever asks, so that a change that is asked for twice is made once; each "
        "question is answered, also the second time."
    ),
    retention=timedelta(hours=1),
    sent_back=(control.EraseResponse, control.EraseConversation, control.EraseItem, control.ReleaseConversation),
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
    ordering="None: every question stands for itself.",
    delivery="At least once: a question may be answered twice.",
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
    ordering="One partition. A name stands for one text for ever, so that order does not matter.",
    delivery="At least once, and compacted: of the records of one name the last stays.",
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
    summary="What becomes of conversations: created, updated (metadata, items), deleted; without what clients wrote.",
    ordering=(
        "All records of a conversation stand in one partition. Each is written once the store holds its change, by the "
        "replica that made it: changes that come at about the same time may stand in either order, and one that was "
        "made just before `conversation.deleted` behind it."
    ),
    delivery=(
        "At least once: after a fault a change may be told again, by another replica too. Count each `ce_id` once, "
        "whatever its `ce_source`; after `conversation.deleted` ignore the rest."
    ),
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
    ordering="A gateway's answers stand in a partition of its own choice, in no promised order.",
    delivery="At least once: the first answer with a correlation id counts, and one that nobody waits for is dropped.",
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
    ordering="All records of a tenant stand in one partition, and their order decides who is admitted.",
    delivery="At least once: a `charge` counts once per response, as `services/gateway/ledger/fold.py` has it.",
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
    consumers=frozenset({Service.GATEWAY, Service.MODERATION, Outsider.OPERATOR}),
    summary="Five signs of life a second from every service: state, assignments, free slots, claims.",
    ordering="One partition: one order over all services. `seq` rises with every beat of a service.",
    delivery="A beat that is lost is not sent again: the next one says more. A copy says nothing new.",
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
    ordering=(
        "Verdicts on one response share a partition. A verdict stands in the log before the text that it is about is "
        "public; those on one response may stand in another order than their text."
    ),
    delivery=(
        "At least once: an owner that takes over decides alike and may say so again. Count each `verdict_id` once. A "
        "verdict may be about text that never became public."
    ),
    retention=timedelta(days=7),
)

_PUT_ASIDE_BY: tuple[tuple[Topic, frozenset[Service]], ...] = (
    (JOURNAL, frozenset({Service.MODERATION})),
    (EVENTS, frozenset({Service.GATEWAY, Service.HISTORY})),
    (JOBS, frozenset({Service.INFERENCE, Service.MODERATION})),
    (CONTEXT, frozenset({Service.HISTORY})),
    (HISTORY_QUERIES, frozenset({Service.HISTORY})),
    (MODERATION_QUERIES, frozenset({Service.MODERATION})),
)
"""Whose records can be put aside, and by whom: who handles them, and moderation, which gives jobs of its own up."""


def dead_letter_topic(source: Topic, put_aside_by: frozenset[Service]) -> Topic:
    """The dead-letter queue of `source`: read by operators only."""
    return Topic(
        f"{source.name}.dlq",
        visibility=Visibility.INTERNAL,
        partitioning=Partitioning.KEY,
        key=source.key,
        types=control.DeadLetter | control.Redriven,
        producers=put_aside_by | {Outsider.OPERATOR},
        consumers=frozenset({Outsider.OPERATOR}),
        summary=f"Records of {source.name} that could not be handled: error, attempts, origin; which went back.",
        ordering="One partition, in the order in which records were put aside and sent back.",
        delivery=(
            "At least once: a record may be put aside again; `origin_topic`, `origin_partition` and `origin_offset` "
            "name it (-1: no record, but work that was given up). A letter that was sent back without a `redriven` may "
            "be sent back again."
        ),
        retention=timedelta(days=7),
        partitions=1,
    )


DEAD_LETTERS: dict[str, Topic] = {source.name: dead_letter_topic(source, by) for source, by in _PUT_ASIDE_BY}

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


def assert_may_produce(topic: Topic, party: Party, record: Record) -> None:
    """Raises TopicError unless the registry lets `party` produce `record` to `topic`."""
    if party not in topic.producers:
        raise TopicError(f"{party} may not produce to {topic.name}: allowed are {sorted(topic.producers)}")
    if not isinstance(record, topic.record_types):
        raise TopicError(f"{topic.name} does not carry records of type {type(record).__name__}")


def assert_may_consume(topic: Topic, party: Party) -> None:
    """Raises TopicError unless the registry lets `party` consume `topic`. What is public, every outsider may."""
    if isinstance(party, Outsider) and topic.visibility is Visibility.PUBLIC:
        return
    if party not in topic.consumers:
        raise TopicError(f"{party} may not consume {topic.name}: allowed are {sorted(topic.consumers)}")


def assert_may_redrive(topic: Topic, party: Party) -> None:
    """Raises TopicError unless `party` may append to `topic`, as they were, records that lie in its dead letters."""
    if party is not Outsider.OPERATOR or not topic.sent_back:
        raise TopicError(f"{party} may not send dead letters back to {topic.name}")


@dataclass(frozen=True, slots=True)
class Group:
    """A consumer group: the replicas of `service` share the partitions of `topic`, each record for one of them."""

    name: str
    service: Service
    topic: Topic
    summary: str


OWNERS = Group("moderation", Service.MODERATION, JOURNAL, "Who owns which partition; its generations rank owners.")
WORKERS = Group("inference", Service.INFERENCE, JOBS, "Which worker has which mailboxes.")
RECORDERS = Group("history.recorder", Service.HISTORY, EVENTS, "Keeps conversations and responses in the store.")
METERS = Group("history.usage", Service.HISTORY, EVENTS, "Counts what responses used; the totals stand in its commits.")
CONTROL_GROUPS: dict[str, Group] = {
    topic.name: Group(f"{service.value}.{topic.name}", service, topic, f"Answers what stands in {topic.name}.")
    for topic, service in (
        (CONTEXT, Service.HISTORY),
        (HISTORY_QUERIES, Service.HISTORY),
        (MODERATION_QUERIES, Service.MODERATION),
    )
}
"""Of the topics that `shared.control` shares out among the replicas of one service, by topic."""

GROUPS: dict[str, Group] = {
    group.name: group for group in (OWNERS, WORKERS, RECORDERS, METERS, *CONTROL_GROUPS.values())
}

CONSUMER_GROUPS = "consumers."
"""How the groups of consumers outside the mesh begin: what they may join."""
