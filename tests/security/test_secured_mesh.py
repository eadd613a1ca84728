"""The whole mesh on a broker with TLS, passwords and access lists, each service with the least rights.

It works, and the broker itself refuses what a service has no business with. The authorizer's log shows at the end that
every right of every service was used: one that is missing would have broken something.
"""

import asyncio
import re
import time
from collections.abc import Iterable
from typing import Any

import openai
import pytest
from aiokafka import TopicPartition
from aiokafka.errors import GroupAuthorizationFailedError, TopicAuthorizationFailedError
from openai import AsyncOpenAI

from deploy.brokers.secured import ADMIN, THIRD_PARTY, SecuredJvmBroker
from shared.ids import parse_response_id
from shared.log.admin import admin_client
from shared.log.clients import make_consumer, make_producer, topic_name
from shared.log.granted import ungranted
from shared.rights import Operation, Right, in_namespace, rights_of
from shared.topics import (
    CONTEXT,
    CONVERSATIONS,
    DEAD_LETTERS,
    EVENTS,
    GROUPS,
    HISTORY_QUERIES,
    JOBS,
    JOURNAL,
    LEDGER,
    MODERATION_QUERIES,
    REGISTRY,
    VERDICTS,
    Outsider,
    Service,
    Topic,
)
from tests.security.conftest import POISON
from tests.security.tools import run_tool
from tests.support.logs import cluster_of, records
from tests.support.mesh import Mesh, Replica
from tests.support.policies import REFUSE_PHRASE

MODEL = "SmolLM2-135M-Instruct"
WAIT_S = 60
LONG_TEXT = " ".join(f"word{n}" for n in range(90))
"""Six seconds, of which finding who is at work takes one or two."""


async def say(client: AsyncOpenAI, text: str, **fields: Any) -> Any:
    return await client.responses.create(model=MODEL, input=text, **fields)


# -- it works ----------------------------------------------------------------------------------------------------------


async def test_a_response_is_streamed_stored_and_deleted(client: AsyncOpenAI) -> None:
    events = [event async for event in await say(client, "Good morning.", stream=True)]
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert said == events[-1].response.output_text == "Good morning."
    response_id = events[0].response.id
    assert (await client.responses.retrieve(response_id)).output_text == said
    await client.responses.delete(response_id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(response_id)


async def test_a_conversation_has_turns_and_is_free_after_one_that_was_refused(client: AsyncOpenAI) -> None:
    conversation = (await client.conversations.create()).id
    assert (await say(client, "one", conversation=conversation)).output_text == "one"
    with pytest.raises(openai.BadRequestError) as refused:
        await say(client, f"the {REFUSE_PHRASE}", conversation=conversation)
    assert refused.value.code == "content_policy_violation"
    assert (await say(client, "two", conversation=conversation)).output_text == "two"
    items = [item async for item in client.conversations.items.list(conversation, order="asc")]
    assert [item.content[0].text for item in items] == ["one", "one", "two", "two"]  # type: ignore[union-attr]


async def test_a_request_that_is_repeated_has_one_response(client: AsyncOpenAI) -> None:
    once = {"Idempotency-Key": "the same"}
    ids = {(await say(client, "Once.", extra_headers=once)).id for _ in range(2)}
    assert len(ids) == 1


async def test_text_is_judged_on_request(client: AsyncOpenAI) -> None:
    judged = await client.moderations.create(input=f"the {REFUSE_PHRASE}")
    assert judged.results[0].flagged


async def test_a_cancel_ends_a_response(client: AsyncOpenAI) -> None:
    running = await say(client, LONG_TEXT, background=True)
    assert (await client.responses.cancel(running.id)).status == "cancelled"


# -- it survives -------------------------------------------------------------------------------------------------------


async def at_work_on(mesh: Mesh, service: Service, response_id: str) -> Replica:
    """The worker that has the claim, or the owner of the partition."""
    partition = parse_response_id(response_id).partition
    async with asyncio.timeout(WAIT_S):
        while True:  # on a busy machine a beat may be late
            for member in (await cluster_of(mesh)).alive(service):
                if member.beat.claims if service is Service.INFERENCE else partition in member.beat.partitions:
                    return next(replica for replica in mesh.of(service) if replica.id == member.beat.id)


@pytest.mark.parametrize("service", [Service.INFERENCE, Service.MODERATION])
async def test_what_is_under_way_is_taken_over(secured_mesh: Mesh, client: AsyncOpenAI, service: Service) -> None:
    killed, said, response_id = False, "", ""
    async for event in await say(client, LONG_TEXT, stream=True):
        if event.type == "response.created":
            response_id = event.response.id
        if event.type == "response.output_text.delta":
            said += event.delta
            if not killed:
                killed = True
                victim = await at_work_on(secured_mesh, service, response_id)
                victim.process.kill()
                secured_mesh.retire(victim)
    assert killed
    assert said == event.response.output_text == LONG_TEXT


async def test_a_prompt_that_kills_every_engine_ends_and_its_job_is_put_aside(
    secured_mesh: Mesh, client: AsyncOpenAI
) -> None:
    failed = await say(client, f"Take the {POISON}.", background=True)
    async with asyncio.timeout(WAIT_S):
        while (await client.responses.retrieve(failed.id)).status != "failed":
            await asyncio.sleep(0.1)
        while "moderation" not in await put_aside_by(secured_mesh, JOBS):
            await asyncio.sleep(0.1)


# -- dead letters ------------------------------------------------------------------------------------------------------

READERS: tuple[tuple[Topic, set[str]], ...] = (
    (JOURNAL, {"moderation"}),
    (EVENTS, {"gateway", "history"}),
    (JOBS, {"inference"}),
    (CONTEXT, {"history"}),
    (HISTORY_QUERIES, {"history"}),
    (MODERATION_QUERIES, {"moderation"}),
)


async def test_what_nobody_can_read_is_put_aside_by_whoever_should(secured_mesh: Mesh, client: AsyncOpenAI) -> None:
    """Under the name of a response that is being read: a gateway looks at no others."""
    stream = await say(client, LONG_TEXT, stream=True)
    response_id = (await anext(aiter(stream))).response.id
    where = parse_response_id(response_id).partition
    producer = make_producer(secured_mesh.settings)
    await producer.start()
    try:
        for topic, _ in READERS:
            name = topic_name(secured_mesh.settings, topic)
            await producer.send_and_wait(name, b"{", key=response_id.encode(), partition=where)
    finally:
        await producer.stop()
    async with asyncio.timeout(WAIT_S):
        for topic, readers in READERS:
            while not await put_aside_by(secured_mesh, topic) >= readers:
                await asyncio.sleep(0.2)
    await stream.close()


async def test_operators_see_the_mesh_and_its_dead_letters_and_send_one_back(secured_mesh: Mesh) -> None:
    seen = await asyncio.to_thread(run_tool, secured_mesh, ADMIN, "deploy.terminal.top", "--once", "--json")
    assert seen.returncode == 0 and "history.recorder" in seen.stdout, seen
    listed = await asyncio.to_thread(run_tool, secured_mesh, ADMIN, "deploy.terminal.dlq", "list")
    assert listed.returncode == 0 and MODERATION_QUERIES.name in listed.stdout, listed
    sent = await asyncio.to_thread(
        run_tool, secured_mesh, ADMIN, "deploy.terminal.dlq", "redrive", "--yes", MODERATION_QUERIES.name
    )
    assert sent.returncode == 0, sent


async def put_aside_by(mesh: Mesh, topic: Topic) -> set[str]:
    return {letter.record.service for letter in await records(mesh, DEAD_LETTERS[topic.name])}


# -- who may not -------------------------------------------------------------------------------------------------------


MAY_NOT_READ: list[tuple[str, Topic]] = [
    ("gateway", JOURNAL),
    ("history", JOURNAL),
    ("gateway", JOBS),
    ("inference", EVENTS),
    ("history", MODERATION_QUERIES),
    ("inference", LEDGER),
    ("admin", JOURNAL),
    (THIRD_PARTY, JOURNAL),
    (THIRD_PARTY, DEAD_LETTERS[JOURNAL.name]),
]
MAY_NOT_WRITE: list[tuple[str, Topic]] = [
    ("gateway", EVENTS),
    ("inference", EVENTS),
    ("history", EVENTS),
    ("gateway", JOBS),
    ("inference", JOBS),
    ("history", VERDICTS),
    ("admin", JOBS),
    ("admin", CONTEXT),
    ("admin", MODERATION_QUERIES),
    (THIRD_PARTY, EVENTS),
]


def named(value: str | Topic) -> str:
    return value.name if isinstance(value, Topic) else value


async def read(mesh: Mesh, principal: str, topic: Topic, group: str | None = None, *, within_s: float = WAIT_S) -> None:
    """Fetch as `principal` until there are records, or for so long. Raises what the broker says."""
    settings = mesh.settings_of(principal)
    consumer = make_consumer(settings, group=group, auto_offset_reset="earliest")
    await consumer.start()
    try:
        where = TopicPartition(topic_name(settings, topic), 0)
        if group is None:
            consumer.assign([where])
            consumer.seek(where, 0)
        else:
            consumer.subscribe([where.topic])
        end_s = time.monotonic() + within_s
        while not await consumer.getmany(timeout_ms=200) and time.monotonic() < end_s:
            # Of a topic that it may not even see, aiokafka says nothing: it goes on asking.
            if where.topic in consumer._client.cluster.unauthorized_topics:
                raise TopicAuthorizationFailedError(where.topic)
    finally:
        await consumer.stop()


async def append(mesh: Mesh, principal: str, topic: Topic) -> None:
    """Append as `principal`. Raises what the broker says."""
    settings = mesh.settings_of(principal)
    producer = make_producer(settings)
    await producer.start()
    try:
        await producer.send_and_wait(topic_name(settings, topic), b"{}", partition=0)
    finally:
        await producer.stop()


@pytest.mark.parametrize(
    ("principal", "topic"),
    MAY_NOT_READ,
    ids=named,
)
async def test_a_principal_that_reads_what_it_may_not_is_refused_by_the_broker(
    secured_mesh: Mesh, principal: str, topic: Topic
) -> None:
    with pytest.raises(TopicAuthorizationFailedError):
        await read(secured_mesh, principal, topic)


@pytest.mark.parametrize(
    ("principal", "topic"),
    MAY_NOT_WRITE,
    ids=named,
)
async def test_a_principal_that_writes_what_it_may_not_is_refused_by_the_broker(
    secured_mesh: Mesh, principal: str, topic: Topic
) -> None:
    with pytest.raises(TopicAuthorizationFailedError):
        await append(secured_mesh, principal, topic)


async def test_consumers_outside_read_what_is_public_in_groups_of_their_own(secured_mesh: Mesh) -> None:
    for topic in (EVENTS, CONVERSATIONS, VERDICTS):
        await read(secured_mesh, THIRD_PARTY, topic, within_s=3)
    await read(secured_mesh, THIRD_PARTY, EVENTS, "consumers.billing", within_s=3)
    with pytest.raises(GroupAuthorizationFailedError):
        await read(secured_mesh, THIRD_PARTY, EVENTS, "moderation")


# -- nothing is granted that is not needed -----------------------------------------------------------------------------

_AUDIT = re.compile(
    r"Principal = User:(?P<who>\S+) is (?P<verdict>Allowed|Denied) operation = (?P<operation>\S+) from host = \S+ "
    r"on resource = (?P<resource>Topic|Group|Cluster):(?P<pattern>\w+):(?P<name>\S+) for request = (?P<request>\S+)"
)


def audited(broker: SecuredJvmBroker, verdict: str, namespace: str) -> set[tuple[str, str, str, str]]:
    """Principal, operation, resource and name of all that the authorizer allowed, or denied, in a namespace."""
    found = set()
    for line in broker.audit_log.read_text().splitlines():
        if (entry := _AUDIT.match(line)) and entry["verdict"] == verdict and entry["name"].startswith(namespace):
            found.add((entry["who"], entry["operation"].capitalize(), entry["resource"].lower(), entry["name"]))
    return found


def single(principal: str, rights: Iterable[Right]) -> set[tuple[str, str, str, str]]:
    return {(principal, operation, r.resource, r.name) for r in rights for operation in r.operations}


async def test_every_right_of_every_service_was_used(secured_mesh: Mesh, secured_broker: SecuredJvmBroker) -> None:
    """What the tests above have not used, no service needs: then it would be granted in vain."""
    used = audited(secured_broker, "Allowed", secured_mesh.namespace)
    unused = {
        right
        for service in Service
        for right in single(service.value, in_namespace(secured_mesh.namespace, rights_of(service))) - used
    }
    assert unused == set()


async def test_nobody_has_more_than_that(secured_mesh: Mesh) -> None:
    """Asked of the broker for every topic and group of the registry; but for Describe, which others imply."""
    everything: frozenset[Operation] = frozenset({"Read", "Write", "Create", "Describe", "DescribeConfigs"})
    topics = [Right("topic", topic.name, "literal", everything) for topic in REGISTRY.values()]
    groups = [Right("group", name, "literal", frozenset({"Read"})) for name in GROUPS]
    asked = in_namespace(secured_mesh.namespace, [*topics, *groups])
    outsiders = ((Outsider.CONSUMER, THIRD_PARTY), (Outsider.OPERATOR, ADMIN))
    for party, principal in (*((s, s.value) for s in Service), *outsiders):
        async with admin_client(secured_mesh.settings_of(principal)) as asking:
            lacking = single(principal, await ungranted(asking, asked))
        granted = {right for right in single(principal, asked) - lacking if right[1] != "Describe"}
        wanted = single(principal, in_namespace(secured_mesh.namespace, rights_of(party)))
        theirs = {r for r in wanted if r[1] != "Describe" and r[3] != f"{secured_mesh.namespace}consumers."}
        assert granted == theirs, principal


async def test_nothing_was_tried_that_is_not_allowed_but_by_these_tests(
    secured_mesh: Mesh, secured_broker: SecuredJvmBroker
) -> None:
    """A service asks for what it has rights to, and nothing else: but that it lists topics, and sees its own alone."""
    denied = {entry for entry in audited(secured_broker, "Denied", secured_mesh.namespace) if entry[1] != "Describe"}
    principals = {who for who, *_ in denied}
    provoked = {
        (principal, operation, "topic", topic_name(secured_mesh.settings, topic))
        for operation, tried in (("Read", MAY_NOT_READ), ("Write", MAY_NOT_WRITE))
        for principal, topic in tried
    }
    provoked.add((THIRD_PARTY, "Read", "group", f"{secured_mesh.namespace}moderation"))
    assert denied <= provoked, principals
