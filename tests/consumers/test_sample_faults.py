"""What befalls a program that reads for long: records that are none of ours, a broker that is away, a closed pipe."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from signal import SIGTERM

import pytest
from aiokafka import AIOKafkaProducer

from deploy import npm
from deploy.brokers import Broker
from deploy.brokers.ports import LOOPBACK, free_port
from deploy.brokers.select import EMBEDDED, broker_for_suite
from shared.ids import new_response_id
from shared.log import LogWriter, ensure_topics
from shared.log.clients import topic_name
from shared.records import Completed, Usage
from shared.settings import MeshSettings
from shared.topics import EVENTS, Service
from tests.chaos.proxy import BrokerProxy
from tests.consumers.test_samples import SAMPLES, started

AWAY_S = 16.0
"""Longer than the JavaScript client tries by itself, in all its rounds."""
_PRINTED_S = 60.0
_ENDED_S = 30.0

NO_RECORDS: tuple[tuple[bytes | None, dict[str, bytes | None]], ...] = (
    (b"{}", {}),
    (b"{}", {"ce_type": None}),
    (b"{}", {"ce_type": b"chatmesh.invented"}),
)
"""Value and headers of what a reader passes by without a word: types that may have come later."""
BROKEN: tuple[tuple[bytes | None, dict[str, bytes | None]], ...] = (
    (None, {"ce_type": b"chatmesh.completed"}),
    (b"{", {"ce_type": b"chatmesh.completed"}),
    (b"\xff", {"ce_type": b"chatmesh.completed"}),
    (b"null", {"ce_type": b"chatmesh.accepted"}),
    (b'{"response_id": "resp_1", "text": "no usage"}', {"ce_type": b"chatmesh.completed"}),
)
"""What a reader says that it leaves out."""


@pytest.fixture(scope="module")
def commands(node: Path) -> list[list[str]]:
    npm.installed(SAMPLES / "node")
    return [
        [sys.executable, str(SAMPLES / "python" / "consumer.py")],
        [str(node), str(SAMPLES / "node" / "consumer.mjs")],
    ]


class Away:
    """A broker behind a proxy, which comes and goes."""

    def __init__(self, broker: Broker) -> None:
        self._proxy = BrokerProxy(int(broker.bootstrap.rpartition(":")[2]), broker.listener)
        self._bootstrap = broker.bootstrap

    async def come(self) -> None:
        await self._proxy.__aenter__()

    async def go(self) -> None:
        await self._proxy.__aexit__()

    async def topics(self, namespace: str) -> MeshSettings:
        """Where topics of that name are, with one partition each that holds nothing yet."""
        settings = MeshSettings(KAFKA_BOOTSTRAP_SERVERS=self._bootstrap, namespace=namespace, partitions=1)
        await ensure_topics(settings)
        return settings


@pytest.fixture(scope="module")
async def away() -> AsyncIterator[Away]:
    """It is there at first."""
    with broker_for_suite(EMBEDDED, advertised=f"{LOOPBACK}:{free_port()}") as running:
        proxied = Away(running)
        await proxied.come()
        try:
            yield proxied
        finally:
            await proxied.go()


@asynccontextmanager
async def readers(
    commands: Iterable[list[str]], settings: MeshSettings, stdout: int = asyncio.subprocess.PIPE
) -> AsyncIterator[list[asyncio.subprocess.Process]]:
    """The programs, each in a group of its own."""
    where = {"KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers, "CHATMESH_NAMESPACE": settings.namespace}
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(started(command, stdout=stdout, **where, GROUP=f"consumers.{number}"))
            for number, command in enumerate(commands)
        ]


async def put_what_is_no_record(settings: MeshSettings) -> None:
    name, producer = topic_name(settings, EVENTS), AIOKafkaProducer(bootstrap_servers=settings.bootstrap_servers)
    await producer.start()
    try:
        for value, headers in NO_RECORDS + BROKEN:
            await producer.send_and_wait(name, value, key=b"x", partition=0, headers=list(headers.items()))
    finally:
        await producer.stop()


async def put_end(settings: MeshSettings) -> str:
    """A response that ends; what is printed of it."""
    name, used = new_response_id(0).text, Usage(input_tokens=3, output_tokens=2)
    end = Completed(response_id=name, epoch=1, tenant="t", text="The end.", usage=used, finished_ms=1)
    writer = LogWriter(settings, Service.MODERATION, "moderation-test")
    await writer.start()
    try:
        await writer.append(EVENTS, end)
    finally:
        await writer.stop()
    return f"{name} completed 3+2 tokens {json.dumps(end.text)}\n"


async def next_line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(_PRINTED_S):
        return (await process.stdout.readline()).decode()


async def ended(process: asyncio.subprocess.Process) -> tuple[int | None, str, str]:
    """Exit status, and what else it said."""
    async with asyncio.timeout(_ENDED_S):
        out, err = await process.communicate()
    return process.returncode, (out or b"").decode(), err.decode()


async def test_who_has_read_enough_ends_it_without_a_word(away: Away, commands: list[list[str]]) -> None:
    settings = await away.topics("enough.")
    await put_end(settings)
    unread, written = os.pipe()
    os.close(unread)
    async with readers(commands, settings, written) as started:
        os.close(written)
        for reader in started:
            async with asyncio.timeout(_PRINTED_S):
                await reader.wait()
            assert await ended(reader) == (0, "", "")


async def test_neither_what_is_no_record_nor_a_broker_that_is_away_ends_it(
    away: Away, commands: list[list[str]]
) -> None:
    settings = await away.topics("long.")
    await put_what_is_no_record(settings)
    first = await put_end(settings)
    async with readers(commands, settings) as started:
        assert await asyncio.gather(*map(next_line, started)) == [first, first]
        await away.go()
        await asyncio.sleep(AWAY_S)
        await away.come()
        second = await put_end(settings)
        assert await asyncio.gather(*map(next_line, started)) == [second, second]
        await away.go()  # whoever is told to end does so, be it without a word to the broker
        for reader in started:
            reader.send_signal(SIGTERM)
        for reader in started:
            status, out, err = await ended(reader)
            assert (status, out, err.count("leaves out 0@")) == (0, "", len(BROKEN)), err
