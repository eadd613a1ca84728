"""Opening a client that does not come to its end, and closing one that stumbles (aiokafka 0.14) or hangs: nothing of it
stays behind."""

import asyncio
import gc
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import KafkaConnectionError, RebalanceInProgressError

from shared.log import GroupConsumer, LogWriter, Replayer, Tail
from shared.log.clients import abandon_producer, close_consumer, make_consumer, make_producer, opened, uninterrupted
from shared.settings import MeshSettings
from shared.topics import HEARTBEATS, JOURNAL, Service


class Stumbling:
    """A consumer without a group whose `stop()` lets a CancelledError out that nobody asked for."""

    def __init__(self) -> None:
        self.closed: list[str] = []
        self._coordinator = None
        self._fetcher: Any = Closes(self, "fetcher")
        self._client: Any = Closes(self, "client")

    async def stop(self) -> None:
        fetch = asyncio.create_task(asyncio.sleep(3600))
        fetch.cancel()
        await fetch


class Closes:
    def __init__(self, owner: Stumbling, name: str) -> None:
        self._owner, self._name = owner, name
        self._get_conn_lock = asyncio.Lock()

    async def close(self) -> None:
        self._owner.closed.append(self._name)


async def test_what_the_fetcher_did_not_get_to_is_closed_all_the_same() -> None:
    consumer: Any = Stumbling()
    await close_consumer(consumer)
    assert consumer.closed == ["fetcher", "client"]


async def test_a_connection_that_is_being_opened_stands_before_the_fetcher_is_cancelled() -> None:
    """Cancelled in the middle it would belong to nobody, and nobody would close it."""
    consumer: Any = Stumbling()
    async with consumer._client._get_conn_lock:
        closing = asyncio.create_task(close_consumer(consumer))
        await asyncio.sleep(0.01)
        assert consumer.closed == []
    await closing
    assert consumer.closed == ["fetcher", "client"]


async def test_a_cancel_of_ours_is_obeyed() -> None:
    consumer: Any = Stumbling()
    consumer.stop = lambda: asyncio.sleep(3600)
    closing = asyncio.create_task(close_consumer(consumer))
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing


async def test_a_start_that_is_cancelled_ends_first() -> None:
    """A connection that is opened half belongs to nobody."""
    opened, go_on = [], asyncio.Event()

    async def start() -> None:
        await go_on.wait()
        opened.append("whole")

    starting = asyncio.create_task(uninterrupted(start()))
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.sleep(0.01)
    assert not starting.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert opened == ["whole"]


class Opens:
    """A client that starts once it may."""

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.failure: Exception | None = None
        self.life: list[str] = []

    async def start(self) -> None:
        await self.may.wait()
        if self.failure is not None:
            raise self.failure
        self.life.append("started")

    async def abandon(self) -> None:
        self.life.append("abandoned")


async def test_a_client_that_cannot_start_is_abandoned() -> None:
    client = Opens()
    client.failure = KafkaConnectionError("nobody listens")
    client.may.set()
    with pytest.raises(KafkaConnectionError):
        await opened(client, Opens.abandon)
    assert client.life == ["abandoned"]


async def test_a_client_that_nobody_waits_for_is_abandoned_once_it_has_started() -> None:
    client = Opens()
    opening = asyncio.create_task(opened(client, Opens.abandon))
    await asyncio.sleep(0)
    opening.cancel()
    await asyncio.sleep(0)
    client.may.set()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert client.life == ["started", "abandoned"]


# -- members of groups -----------------------------------------------------------------------------------------


class Reluctant(ConsumerRebalanceListener):  # type: ignore[misc]
    """Gives nothing up: what it must finish first does not end."""

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        await asyncio.Event().wait()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        pass


async def test_a_member_that_could_not_leave_beats_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the group it would be alive, and its partitions nobody's, for as long as aiokafka lets a reader be idle."""
    monkeypatch.setattr("shared.log.clients.CLOSE_TIMEOUT_S", 0.05)
    consumer = make_consumer(MeshSettings(), group="g")
    beats = 0

    async def send(*_args: Any, **_options: Any) -> Any:
        nonlocal beats
        beats += 1
        await asyncio.sleep(0)
        return SimpleNamespace(error_code=RebalanceInProgressError.errno)

    consumer._client.send = send
    consumer._subscription.subscribe(topics={"t"}, listener=Reluctant())
    consumer._subscription.assign_from_subscribed([TopicPartition("t", 0)])
    consumer._coordinator = coordinator = GroupCoordinator(
        consumer._client, consumer._subscription, group_id="g", heartbeat_interval_ms=10
    )
    coordinator.coordinator_id, coordinator.generation, coordinator.member_id = 1, 3, "m"
    coordinator._start_heartbeat_task()
    coordinator.request_rejoin()
    async with asyncio.timeout(10):
        while beats < 2:
            await asyncio.sleep(0.001)
    await close_consumer(consumer)
    beats = 0
    await asyncio.sleep(0.05)
    assert beats == 0


# -- complaints ------------------------------------------------------------------------------------------------


@contextmanager
def complaints() -> Iterator[list[str]]:
    """What aiokafka says of clients that it finds unclosed when they are collected."""
    gc.collect()  # what others left
    said: list[str] = []
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: said.append(context["message"]))
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield said
            gc.collect()
    finally:
        loop.set_exception_handler(before)
    said += [str(warning.message) for warning in caught]


async def test_who_is_closed_while_a_broker_leaves_its_connection_unanswered_leaves_nothing_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The lock is held for as long as a connection is being opened, which may be longer than a close may take."""
    monkeypatch.setattr("shared.log.clients.CLOSE_TIMEOUT_S", 0.01)
    with complaints() as said:
        consumer = make_consumer(MeshSettings())
        await consumer._client._get_conn_lock.acquire()
        await close_consumer(consumer)
        del consumer
    assert said == []


@pytest.mark.parametrize(
    ("make", "abandon"),
    [(make_consumer, close_consumer), (make_producer, abandon_producer)],
    ids=lambda it: it.__name__,
)
async def test_a_broker_that_takes_connections_and_says_nothing_holds_up_no_end(
    make: Callable[[MeshSettings], Any], abandon: Callable[[Any], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.log.clients._OPENED_WITHIN_S", 0.05)
    connected, hung_up = asyncio.Event(), asyncio.Event()

    async def says_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        await reader.read()
        hung_up.set()
        writer.close()

    server = await asyncio.start_server(says_nothing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = MeshSettings(KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{port}", KAFKA_REQUEST_TIMEOUT_MS=60_000)
    with complaints() as said:
        opening = asyncio.create_task(opened(make(settings), abandon))
        async with asyncio.timeout(10):
            await connected.wait()
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
            await hung_up.wait()
        del opening
    server.close()
    assert said == []


@pytest.mark.parametrize("stopped", [False, True], ids=["forgotten", "stopped"])
@pytest.mark.parametrize(
    "make",
    [
        lambda settings: GroupConsumer(settings, Service.MODERATION, JOURNAL, "g"),
        lambda settings: LogWriter(settings, Service.MODERATION, "moderation-1"),
        lambda settings: Replayer(settings, Service.MODERATION),
        lambda settings: Tail(settings, Service.MODERATION, HEARTBEATS),
    ],
    ids=["group", "writer", "replayer", "tail"],
)
async def test_who_was_never_started_leaves_nothing_open(make: Callable[[MeshSettings], Any], stopped: bool) -> None:
    """A service whose start fails half-way ends with its error, not with aiokafka's about clients nobody opened."""
    with complaints() as said:
        if stopped:
            await make(MeshSettings()).stop()
        else:
            make(MeshSettings())
    assert said == []
