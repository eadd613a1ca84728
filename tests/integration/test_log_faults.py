"""shared.log over a bad network and over dead tasks of aiokafka: nothing is lost, readers and writers go on.

A broker of its own behind a proxy, so that the others' broker is left in peace. What the proxy does is proven here too:
the log holds A A after a lost reply, and A B A after a delayed request.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest
from aiokafka.errors import KafkaError

from deploy.brokers import Broker
from deploy.brokers.ports import LOOPBACK, free_port
from deploy.brokers.select import broker_for_suite
from shared.errors import AppendError
from shared.ids import ResponseId, new_response_id
from shared.log import GroupConsumer, LogWriter, Replayer, Tail, decode, ensure_topics, wait_for_broker, watching
from shared.records import Requested, ResponseSpec
from shared.settings import MeshSettings
from shared.topics import JOURNAL, Service
from tests.chaos.proxy import BrokerProxy, Frames

WAIT_S = 30
TOPICS = b"responses.journal"


@pytest.fixture(scope="module")
async def proxied(broker: Broker) -> AsyncIterator[tuple[Broker, BrokerProxy]]:
    """A broker of the same kind, and the proxy through which everybody reaches it."""
    if not broker.capabilities.controllable:
        pytest.skip("a broker that others run cannot be told to advertise a proxy")
    port = free_port()
    own = broker_for_suite(broker.name, advertised=f"{LOOPBACK}:{port}")
    try:
        await asyncio.to_thread(own.start)
        async with BrokerProxy(port, own.listener) as proxy:
            yield own, proxy
    finally:
        await asyncio.to_thread(own.stop)


@pytest.fixture
async def settings(proxied: tuple[Broker, BrokerProxy], request: pytest.FixtureRequest) -> MeshSettings:
    broker, _ = proxied
    made = MeshSettings(
        KAFKA_BOOTSTRAP_SERVERS=broker.bootstrap,
        namespace=f"f{abs(hash(request.node.nodeid)):x}."[:40],
        partitions=1,
        session_timeout_ms=broker.capabilities.session_timeout_ms,
        fetch_max_wait_ms=broker.capabilities.fetch_max_wait_ms,
    )
    await wait_for_broker(made, WAIT_S)
    await ensure_topics(made)
    return made


@pytest.fixture(autouse=True)
def quick_to_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A standstill is noticed after two looks."""
    monkeypatch.setattr(watching, "STALLED_AFTER_S", 1.0)


@pytest.fixture
def proxy(proxied: tuple[Broker, BrokerProxy]) -> BrokerProxy:
    return proxied[1]


@pytest.fixture
async def writer(settings: MeshSettings) -> AsyncIterator[LogWriter]:
    log_writer = LogWriter(settings, Service.GATEWAY, "gateway-1")
    await log_writer.start()
    yield log_writer
    await log_writer.stop()


def request_number(number: int, response_id: ResponseId) -> Requested:
    """Records that tell themselves apart by their `input_tokens`."""
    spec = ResponseSpec(model="m", input=[])
    return Requested(
        response_id=response_id.text, tenant="t", spec=spec, created_ms=0, deadline_ms=1, input_tokens=number
    )


async def numbers_in_log(settings: MeshSettings, response_id: ResponseId) -> list[int]:
    replayer = Replayer(settings, Service.MODERATION)
    await replayer.start()
    try:
        found = await replayer.replay(JOURNAL, response_id, start=0)
    finally:
        await replayer.stop()
    return [envelope.record.input_tokens for envelope in found.records]


async def next_numbers(batches: AsyncIterator[list[Any]], wanted: set[int]) -> Counter[int]:
    """Read until every wanted number has come."""
    seen: Counter[int] = Counter()
    async with asyncio.timeout(WAIT_S):
        while not wanted <= seen.keys():
            seen.update(decode(JOURNAL, record).record.input_tokens for record in await anext(batches))
    return seen


def test_frames_are_found_however_the_bytes_come() -> None:
    stream = b"\0\0\0\3abc" + b"\0\0\0\0" + b"\0\0\0\2de"
    for size in range(1, len(stream) + 1):
        frames = Frames()
        found = [f for start in range(0, len(stream), size) for f in frames.feed(stream[start : start + size])]
        assert found == [b"\0\0\0\3abc", b"\0\0\0\0", b"\0\0\0\2de"]


async def test_a_lost_reply_doubles_its_batch(settings: MeshSettings, proxy: BrokerProxy, writer: LogWriter) -> None:
    response_id = new_response_id(0)
    await writer.append(JOURNAL, request_number(1, response_id))
    lost = proxy.lose_replies(TOPICS)
    await writer.append(JOURNAL, request_number(2, response_id))
    lost.disarm()
    await writer.append(JOURNAL, request_number(3, response_id))
    assert lost.count == 1
    assert await numbers_in_log(settings, response_id) == [1, 2, 2, 3]


async def test_a_delayed_request_comes_behind_its_copy_and_its_successor(
    settings: MeshSettings, proxy: BrokerProxy, writer: LogWriter
) -> None:
    response_id = new_response_id(0)
    await writer.append(JOURNAL, request_number(1, response_id))
    delayed = proxy.delay_requests(TOPICS)
    await writer.append(JOURNAL, request_number(2, response_id))
    await writer.append(JOURNAL, request_number(3, response_id))
    delayed.deliver()
    async with asyncio.timeout(WAIT_S):
        while len(found := await numbers_in_log(settings, response_id)) < 4:
            await asyncio.sleep(0.05)
    assert len(delayed.links) == 1
    assert found == [1, 2, 3, 2]


async def test_a_partition_longer_than_a_request_fails_appends_and_the_writer_goes_on(
    settings: MeshSettings, proxy: BrokerProxy
) -> None:
    response_id = new_response_id(0)
    writer = LogWriter(settings.model_copy(update={"request_timeout_ms": 1000}), Service.GATEWAY, "gateway-1")
    await writer.start()
    await writer.append(JOURNAL, request_number(1, response_id))
    proxy.pause()
    try:
        async with asyncio.timeout(WAIT_S):
            with pytest.raises(AppendError):
                await writer.append(JOURNAL, request_number(2, response_id))
    finally:
        proxy.resume()
    async with asyncio.timeout(WAIT_S):
        await writer.append(JOURNAL, request_number(3, response_id))
    await writer.stop()
    found = await numbers_in_log(settings, response_id)
    assert found[0] == 1 and 3 in found  # 2 is there or not: nobody can know, and readers must not care


@pytest.mark.parametrize("fault", ["reset", "partition", "fetcher died", "metadata died"])
async def test_a_tail_reads_on(settings: MeshSettings, proxy: BrokerProxy, writer: LogWriter, fault: str) -> None:
    """Every record once, in order, whatever happened to the connection or to aiokafka's own tasks."""
    response_id = new_response_id(0)
    tail = Tail(settings, Service.MODERATION, JOURNAL)
    await tail.start({0: None})
    try:
        async with aclosing(tail.batches()) as batches:
            await writer.append(JOURNAL, request_number(1, response_id))
            seen = await next_numbers(batches, {1})
            await strike(fault, proxy, tail)
            after = [writer.append(JOURNAL, request_number(number, response_id)) for number in (2, 3)]
            reading = asyncio.create_task(next_numbers(batches, {2, 3}))
            await asyncio.gather(*after)
            seen += await reading
    finally:
        await tail.stop()
    assert seen.keys() == {1, 2, 3}
    assert tail.heals or fault != "fetcher died"


async def strike(fault: str, proxy: BrokerProxy, tail: Tail) -> None:
    consumer: Any = tail._consumer
    if fault == "reset":
        proxy.reset_all()
    elif fault == "partition":
        proxy.pause()
        asyncio.get_running_loop().call_later(0.8, proxy.resume)
    elif fault == "fetcher died":
        consumer._fetcher._fetch_task.cancel()  # it ends without a word, as after an exception
    else:
        consumer._client._sync_task.cancel()
        proxy.reset_all()


@pytest.mark.parametrize("fault", ["reset", "fetcher died", "coordinator died", "heartbeat failed"])
async def test_a_member_of_a_group_reads_on(
    settings: MeshSettings, proxy: BrokerProxy, writer: LogWriter, fault: str
) -> None:
    """What was not committed may come again; nothing may be left out."""
    response_id = new_response_id(0)
    changes: list[str] = []

    async def assigned(_numbers: list[int]) -> None:
        changes.append("assigned")

    async def revoked(_numbers: list[int]) -> None:
        changes.append("revoked")

    member = GroupConsumer(
        settings, Service.MODERATION, JOURNAL, f"g {fault}", on_assigned=assigned, on_revoked=revoked
    )
    await member.start()
    try:
        async with aclosing(member.batches()) as batches:
            await writer.append(JOURNAL, request_number(1, response_id))
            await next_numbers(batches, {1})
            harm_member(fault, proxy, member)
            await writer.append(JOURNAL, request_number(2, response_id))
            reading = asyncio.create_task(next_numbers(batches, {2, 3}))
            async with asyncio.timeout(WAIT_S):
                while fault != "reset" and not member.heals:
                    await asyncio.sleep(0.05)
            await writer.append(JOURNAL, request_number(3, response_id))
            await reading
            assert await member.commit(0, await member.position(0))
    finally:
        await member.stop()
    due = ["assigned"] if fault == "reset" else ["assigned", "revoked", "assigned"]
    assert changes[: len(due)] == due


def harm_member(fault: str, proxy: BrokerProxy, member: GroupConsumer) -> None:
    consumer: Any = member._consumer
    if fault == "reset":
        proxy.reset_all()
    elif fault == "fetcher died":
        consumer._fetcher._fetch_task.cancel()
    elif fault == "coordinator died":
        consumer._coordinator.ensure_coordinator_known = fails(RuntimeError("a bug"))
        consumer._coordinator.request_rejoin()
    else:  # what a coordinator that is still loading its groups provokes
        consumer._coordinator._do_heartbeat = fails(KafkaError("Unexpected exception in heartbeat task"))


def fails(error: Exception) -> Callable[[], Awaitable[None]]:
    async def fail() -> None:
        raise error

    return fail
