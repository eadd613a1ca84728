"""Who needs which rights at the broker, derived from the topic registry. Pure.

A right is an operation on a topic or a group, as Kafka's access lists know them (`kafka-acls.sh`). What is listed is
what the calls of `shared.log` need and nothing more: Read and Write imply Describe, an append without idempotence needs
no right on the cluster, and a group is read by whoever joins it or commits to it. Names are without the mesh's
namespace; `in_namespace` puts it in front.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from shared.topics import (
    CONSUMER_GROUPS,
    GROUPS,
    REGISTRY,
    Group,
    Outsider,
    Party,
    Service,
    Topic,
    Visibility,
)

Resource = Literal["topic", "group", "cluster", "transactional_id"]
Pattern = Literal["literal", "prefixed"]
Operation = Literal["Read", "Write", "Create", "Describe", "DescribeConfigs"]


@dataclass(frozen=True, order=True, slots=True)
class Right:
    """`operations` on one resource, or on all whose names begin with `name` (`prefixed`)."""

    resource: Resource
    name: str
    pattern: Pattern
    operations: frozenset[Operation]


Wanted = tuple[Resource, str, Operation]
Topics = Iterable[Topic]
Groups = Iterable[Group]
TOPICS: Topics = tuple(REGISTRY.values())
MESH_GROUPS: Groups = tuple(GROUPS.values())


def rights_of(party: Party, topics: Topics = TOPICS, groups: Groups = MESH_GROUPS) -> tuple[Right, ...]:
    """What a service needs; for an operator or a consumer, what `operator_rights` and `consumer_rights` say."""
    if party is Outsider.OPERATOR:
        return operator_rights(topics, groups)
    if party is Outsider.CONSUMER:
        return consumer_rights(topics)
    return _merged(_wanted_by(party, topics, groups))


def _wanted_by(party: Party, topics: Topics, groups: Groups) -> Iterator[Wanted]:
    for topic in topics:
        if party in topic.producers:
            yield "topic", topic.name, "Write"
        if party in topic.consumers:
            yield "topic", topic.name, "Read"
    for group in groups:
        if group.service == party:
            yield "group", group.name, "Read"


def rights_to_share(group: Group) -> tuple[Right, ...]:
    """What a member of one group needs."""
    return _merged([("topic", group.topic.name, "Read"), ("group", group.name, "Read")])


def mesh_rights(topics: Topics = TOPICS, groups: Groups = MESH_GROUPS) -> tuple[Right, ...]:
    """What one principal needs under which all four services run, as `make run` does on a broker of somebody else."""
    return _merged(wanted for service in Service for wanted in _wanted_by(service, topics, groups))


def operator_rights(topics: Topics = TOPICS, groups: Groups = MESH_GROUPS) -> tuple[Right, ...]:
    """What the tools of operators need: `deploy.topics`, `deploy.terminal`.

    They make topics and compare them, read what is public, signs of life and dead letters, send letters back where
    they can go back, and see where groups stand. The text that nobody has screened is not among it.
    """
    return _merged(_wanted_by_operators(topics, groups))


def _wanted_by_operators(topics: Topics, groups: Groups) -> Iterator[Wanted]:
    for topic in topics:
        yield "topic", topic.name, "Create"
        yield "topic", topic.name, "DescribeConfigs"
        yield "topic", topic.name, "Describe"
        if topic.visibility is Visibility.PUBLIC or Outsider.OPERATOR in topic.consumers:
            yield "topic", topic.name, "Read"
        if topic.sent_back or Outsider.OPERATOR in topic.producers:
            yield "topic", topic.name, "Write"
    for group in groups:
        yield "group", group.name, "Describe"


def consumer_rights(topics: Topics = TOPICS) -> tuple[Right, ...]:
    """What who is no part of the mesh may: read public topics, in groups whose names begin with `CONSUMER_GROUPS`."""
    public: Iterator[Wanted] = (
        ("topic", topic.name, "Read") for topic in topics if topic.visibility is Visibility.PUBLIC
    )
    return (*_merged(public), Right("group", CONSUMER_GROUPS, "prefixed", frozenset({"Read"})))


def in_namespace(namespace: str, rights: Iterable[Right]) -> tuple[Right, ...]:
    """The same rights on the names that the broker knows."""
    return tuple(replace(right, name=namespace + right.name) for right in rights)


def joined(rights: Iterable[Right]) -> tuple[Right, ...]:
    """One right per resource and pattern, without Describe where another operation implies it."""
    operations: defaultdict[tuple[Resource, str, Pattern], set[Operation]] = defaultdict(set)
    for right in rights:
        operations[right.resource, right.name, right.pattern] |= right.operations
    return tuple(
        Right(resource, name, pattern, frozenset(of - {"Describe"} if of & {"Read", "Write"} else of))
        for (resource, name, pattern), of in operations.items()
    )


def _merged(wanted: Iterable[Wanted]) -> tuple[Right, ...]:
    return joined(Right(resource, name, "literal", frozenset({operation})) for resource, name, operation in wanted)
