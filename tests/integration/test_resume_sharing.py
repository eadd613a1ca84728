"""Hundreds of streams of many partitions resume at one gateway at once: few scans, one consumer per partition."""

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from deploy.brokers import Broker
from services.gateway.app import make_scans
from services.gateway.fanout import Fanout, Lease
from services.gateway.projections import ResponsesProjection
from services.gateway.settings import GatewaySettings
from shared.ids import new_response_id
from shared.log import LogWriter, Tail, ensure_topics
from shared.topics import EVENTS, Service
from tests.unit.gateway.fakes import FakePresence
from tests.unit.gateway.logs import Log

PARTITIONS, STREAMS, DELTAS = 8, 320, 20


class Setup:
    """A fan-out over real topics whose home is one partition; responses live in the others."""

    def __init__(self, settings: GatewaySettings, writer: LogWriter) -> None:
        self.writer = writer
        self.tails = 0
        self.settings = settings
        self.scans = make_scans(self.settings)
        self.fanout = Fanout(
            "me",
            PARTITIONS,
            make_tail=self._tail,
            replay=self.scans.replay,
            presence=FakePresence(),
            put_aside=lambda record, error: pytest.fail(f"{record}: {error}"),
            buffer_bytes=64 << 20,
        )

    def _tail(self) -> Tail:
        self.tails += 1
        return Tail(self.settings, Service.GATEWAY, EVENTS)

    async def say(self, *records: Any) -> None:
        await asyncio.gather(*(self.writer.enqueue(EVENTS, record) for record in records))


@pytest.fixture
async def setup(broker: Broker) -> AsyncIterator[Setup]:
    settings = GatewaySettings(
        KAFKA_BOOTSTRAP_SERVERS=broker.bootstrap,
        namespace=f"t{uuid.uuid4().hex[:12]}.",
        partitions=PARTITIONS,
        fetch_max_wait_ms=broker.capabilities.fetch_max_wait_ms,
    )
    await ensure_topics(settings)
    writer = LogWriter(settings, Service.MODERATION, "moderation-1")
    await writer.start()
    made = Setup(settings, writer)
    await made.scans.start()
    await made.fanout.rehome([f"gateway-{n}" for n in range(20)])
    yield made
    await made.fanout.stop()
    await made.scans.stop()
    await writer.stop()


def records_of(log: Log) -> list[Any]:
    deltas = [log.delta(n, "x") for n in range(DELTAS)]
    return [log.accepted(), *deltas, log.terminal(text="x" * DELTAS)]


async def resume(setup: Setup, log: Log, starting_after: int) -> tuple[float, list[Any], Lease]:
    """Seconds until the first missing event, the events that were there, the lease."""
    begun_s = time.perf_counter()
    lease = await setup.fanout.attach(log.id)
    assert lease is not None
    events = await lease.cursor(starting_after).batch()
    return time.perf_counter() - begun_s, events, lease


async def test_a_crowd_shares_scans_and_consumers_and_misses_nothing(setup: Setup, record_property: Any) -> None:
    foreign = sorted(set(range(PARTITIONS)) - setup.fanout.home)
    tails_before = setup.tails
    logs = [Log(new_response_id(foreign[n % len(foreign)])) for n in range(STREAMS)]
    await setup.say(*(record for log in logs for record in records_of(log)[:-2]))
    resumed = await asyncio.gather(*(resume(setup, log, starting_after=4) for log in logs))

    assert setup.scans.scans == len(foreign), "one scan per partition"
    await setup.say(*(record for log in logs for record in records_of(log)[-2:]))
    for log, (_, first, lease) in zip(logs, resumed, strict=True):
        events = list(first)
        with lease:
            cursor = lease.cursor(starting_after=events[-1].sequence_number)
            async with asyncio.timeout(20):
                while batch := await cursor.batch():
                    events += batch
        projection = ResponsesProjection(log.id)
        assert events == [event for record in records_of(log) for event in projection.feed(record)][5:]
    assert setup.tails - tails_before == len(foreign), "one consumer per partition"
    waits_s = sorted(wait_s for wait_s, _, _ in resumed)
    figures = {"median_s": waits_s[STREAMS // 2], "p99_s": waits_s[int(STREAMS * 0.99)], "max_s": waits_s[-1]}
    for name, value in figures.items():
        record_property(name, round(value, 3))
    print({name: round(value, 3) for name, value in figures.items()}, Counter(len(e) for _, e, _ in resumed))
