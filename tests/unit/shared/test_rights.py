"""Rights follow from the registry, and are the least: shown on a toy registry, and held for the real one."""

from datetime import timedelta

import pytest

from shared.records import control
from shared.rights import Right, consumer_rights, in_namespace, mesh_rights, operator_rights, rights_of
from shared.topics import (
    CONSUMER_GROUPS,
    DEAD_LETTERS,
    GROUPS,
    JOURNAL,
    REGISTRY,
    Group,
    Outsider,
    Partitioning,
    Party,
    Service,
    Topic,
    Visibility,
)


def toy(name: str, visibility: Visibility, producers: set[Party], consumers: set[Party]) -> Topic:
    return Topic(
        name,
        visibility=visibility,
        partitioning=Partitioning.KEY,
        key="key",
        types=control.Heartbeat,
        producers=frozenset(producers),
        consumers=frozenset(consumers),
        summary="",
        ordering="",
        delivery="",
        retention=timedelta(hours=1),
    )


SECRET = toy("secret", Visibility.INTERNAL, {Service.GATEWAY}, {Service.MODERATION})
NEWS = toy("news", Visibility.PUBLIC, {Service.MODERATION}, {Service.GATEWAY, Service.MODERATION})
TOPICS = (SECRET, NEWS)
READERS = (Group("readers", Service.MODERATION, SECRET, ""),)


def right(resource: str, name: str, *operations: str) -> Right:
    return Right(resource, name, "literal", frozenset(operations))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("party", "rights"),
    [
        (Service.GATEWAY, {right("topic", "secret", "Write"), right("topic", "news", "Read")}),
        (
            Service.MODERATION,
            {
                right("topic", "secret", "Read"),
                right("topic", "news", "Read", "Write"),
                right("group", "readers", "Read"),
            },
        ),
        (Service.HISTORY, set()),
        (
            Outsider.OPERATOR,
            {
                right("topic", "secret", "Create", "Describe", "DescribeConfigs"),
                right("topic", "news", "Create", "DescribeConfigs", "Read"),
                right("group", "readers", "Describe"),
            },
        ),
        (
            Outsider.CONSUMER,
            {right("topic", "news", "Read"), Right("group", CONSUMER_GROUPS, "prefixed", frozenset({"Read"}))},
        ),
    ],
)
def test_rights_follow_from_who_produces_and_consumes(party: Party, rights: set[Right]) -> None:
    assert set(rights_of(party, TOPICS, READERS)) == rights


def test_one_principal_for_all_services_has_what_all_of_them_need_and_no_more() -> None:
    assert set(mesh_rights(TOPICS, READERS)) == {
        right("topic", "secret", "Read", "Write"),
        right("topic", "news", "Read", "Write"),
        right("group", "readers", "Read"),
    }


def test_a_namespace_comes_before_every_name() -> None:
    named = in_namespace("blue.", consumer_rights(TOPICS))
    assert {r.name for r in named} == {"blue.news", f"blue.{CONSUMER_GROUPS}"}


@pytest.mark.parametrize("party", [*Service, *Outsider])
def test_nobody_has_rights_on_the_cluster_or_to_alter_or_delete(party: Party) -> None:
    for found in rights_of(party):
        assert found.resource in ("topic", "group")
        assert found.operations <= {"Read", "Write", "Create", "Describe", "DescribeConfigs"}
    if party in list(Service):
        assert not any(found.operations - {"Read", "Write"} for found in rights_of(party))


def readers_of(topic: Topic) -> set[Party]:
    readable = right("topic", topic.name, "Read")
    everybody: list[Party] = [*Service, *Outsider]
    return {p for p in everybody if any(r.name == readable.name and "Read" in r.operations for r in rights_of(p))}


def test_unscreened_text_is_read_by_those_who_work_on_it_alone() -> None:
    assert readers_of(JOURNAL) == {Service.MODERATION, Service.INFERENCE}
    assert readers_of(REGISTRY["moderation.queries"]) == {Service.MODERATION}
    assert readers_of(REGISTRY["generation.jobs"]) == {Service.INFERENCE}


def test_only_the_owner_writes_what_is_public_of_a_response() -> None:
    writers = [
        s for s in Service if any(r.name == "responses.events" and "Write" in r.operations for r in rights_of(s))
    ]
    assert writers == [Service.MODERATION]


def test_groups_are_of_services_that_may_read_their_topic() -> None:
    for group in GROUPS.values():
        assert group.service in group.topic.consumers
        assert not group.name.startswith(CONSUMER_GROUPS)


def test_operators_may_not_read_unscreened_text() -> None:
    read = {r.name for r in operator_rights() if "Read" in r.operations}
    assert not read & {"responses.journal", "generation.jobs", "moderation.queries", "context.requested"}


def test_operators_write_to_dead_letters_and_where_some_of_them_can_go_back_alone() -> None:
    written = {r.name for r in operator_rights() if "Write" in r.operations}
    goes_back = {"responses.events", "responses.journal", "history.queries"}
    assert written == goes_back | {topic.name for topic in DEAD_LETTERS.values()}
