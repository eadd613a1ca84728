"""Whoever knows only brokers that are gone goes back to the list that it was given at the start (Kafka's KIP-899).

Two brokers that take turns stand for a cluster of which a client last saw one half, and now only the other lives.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

import pytest

from deploy.brokers.embedded import EmbeddedBroker
from shared.control import ControlPlane
from shared.errors import AppendError
from shared.ids import new_response_id
from shared.log import Appended, GroupConsumer, LogWriter, RawRecord, Tail, ensure_topics
from shared.log.admin import admin_client
from shared.records.journal import Cancel
from shared.settings import MeshSettings
from shared.topics import HISTORY_QUERIES, JOURNAL, OWNERS, Service

WAIT_S = 20


@pytest.fixture
def turns() -> Iterator[tuple[EmbeddedBroker, EmbeddedBroker]]:
    first, second = EmbeddedBroker(), EmbeddedBroker()
    try:
        first.start()
        yield first, second
    finally:
        first.stop()
        second.stop()


@pytest.fixture
async def settings(turns: tuple[EmbeddedBroker, EmbeddedBroker]) -> MeshSettings:
    first, second = turns
    made = MeshSettings(
        KAFKA_BOOTSTRAP_SERVERS=f"{first.bootstrap},{second.bootstrap}",
        partitions=1,
        request_timeout_ms=2000,  # a first join takes a second
        session_timeout_ms=first.capabilities.session_timeout_ms,
        fetch_max_wait_ms=first.capabilities.fetch_max_wait_ms,
    )
    await ensure_topics(made)
    return made


@pytest.fixture
async def writer(settings: MeshSettings) -> AsyncIterator[LogWriter]:
    made = LogWriter(settings, Service.GATEWAY, "gateway-1")
    await made.start()
    yield made
    await made.stop()


async def taken_over(turns: tuple[EmbeddedBroker, EmbeddedBroker], settings: MeshSettings) -> None:
    """The first is gone for good, and the other one has the topics."""
    first, second = turns
    await asyncio.to_thread(second.start)
    # Before anybody else asks for them: this broker makes what it is asked for.
    await ensure_topics(settings.model_copy(update={"bootstrap_servers": second.bootstrap}))
    await asyncio.to_thread(first.kill)


async def appended(writer: LogWriter) -> Appended:
    """A record, once it is taken."""
    record = Cancel(response_id=new_response_id(0).text)
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                return await writer.append(JOURNAL, record)
            except AppendError:
                await asyncio.sleep(0.1)


async def first_of(batches: AsyncIterator[list[RawRecord]]) -> RawRecord:
    async with asyncio.timeout(WAIT_S), aclosing(batches):
        return (await anext(batches))[0]


async def test_a_writer_finds_who_is_left(
    turns: tuple[EmbeddedBroker, EmbeddedBroker], settings: MeshSettings, writer: LogWriter
) -> None:
    assert (await appended(writer)).offset == 0
    await taken_over(turns, settings)
    assert (await appended(writer)).offset == 0
    assert writer.heals == 0


async def test_a_tail_and_a_group_find_who_is_left(
    turns: tuple[EmbeddedBroker, EmbeddedBroker], settings: MeshSettings, writer: LogWriter
) -> None:
    tail = Tail(settings, Service.INFERENCE, JOURNAL)
    group = GroupConsumer(settings, Service.MODERATION, JOURNAL, OWNERS.name)
    await tail.start({0: 0})
    await group.start()
    try:
        await taken_over(turns, settings)
        await appended(writer)
        assert (await first_of(tail.batches())).offset == 0
        assert (await first_of(group.batches())).offset == 0
        assert tail.heals == group.heals == 0
    finally:
        await tail.stop()
        await group.stop()


async def test_an_admin_client_finds_who_is_left(
    turns: tuple[EmbeddedBroker, EmbeddedBroker], settings: MeshSettings
) -> None:
    async with admin_client(settings) as client:
        await taken_over(turns, settings)
        await client._client.force_metadata_update()
        assert await client.list_topics()


async def test_the_control_plane_takes_a_list_of_brokers(settings: MeshSettings) -> None:
    async def ignore(_: RawRecord) -> None:
        """Handles everything."""

    plane = ControlPlane(settings, Service.HISTORY, [(HISTORY_QUERIES, ignore)], max_in_flight=4)
    await plane.start()
    await plane.stop()
