"""The Kafka clients: their constructor arguments in one place, each with its reason, and an end that always comes."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError

import shared.log.mended  # noqa: F401 - from here on aiokafka's clients are what we make them
from shared.futures import error_of
from shared.log.access import FORBIDDEN, access_options, forbidden, raise_if_locked_out, trouble
from shared.log.outage import Outage
from shared.settings import KafkaSettings, servers_of
from shared.topics import Topic

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 4 * 1024 * 1024
RECONNECT_S = 0.5
"""Between two attempts to reach the broker."""
CLOSE_TIMEOUT_S = 5.0
"""A consumer has nothing to say at its end but that it leaves its group."""
_OPENED_WITHIN_S = 1.0
"""For whom nobody waits any more. A broker that is well takes a moment; one that takes connections and says nothing
holds up no shutdown."""


class _Starts(Protocol):
    """A consumer or a producer of aiokafka."""

    async def start(self) -> None: ...


Client = TypeVar("Client", bound=_Starts)
Abandon = Callable[[Client], Awaitable[None]]


def topic_name(settings: KafkaSettings, topic: Topic) -> str:
    """The topic's name on the broker: the mesh's namespace comes first."""
    return settings.namespace + topic.name


def group_name(settings: KafkaSettings, group: str) -> str:
    """The consumer group's name on the broker."""
    return settings.namespace + group


def connection_options(settings: KafkaSettings) -> dict[str, Any]:
    """Where the brokers are, and how long they may take. One by one: FastStream takes a text for one address."""
    brokers = servers_of(settings.bootstrap_servers)
    return {"bootstrap_servers": brokers, "request_timeout_ms": settings.request_timeout_ms}


def client_options(settings: KafkaSettings) -> dict[str, Any]:
    """What every client takes. Raises SettingsError for files of certificates or passwords that cannot be used."""
    return {**connection_options(settings), **access_options(settings)}


def make_producer(settings: KafkaSettings) -> AIOKafkaProducer:
    """A producer whose acknowledged records survive the loss of a broker.

    No idempotence: idempotent batches never expire, so a failed append could not be told from a slow one, and
    the embedded broker lacks InitProducerId. Readers drop duplicates by position instead (DESIGN 5.4).
    """
    return AIOKafkaProducer(
        **client_options(settings),
        acks="all",
        linger_ms=0,
        max_batch_size=256 * 1024,
        max_request_size=MAX_REQUEST_BYTES,
        enable_idempotence=False,
    )


def make_consumer(settings: KafkaSettings, *, group: str | None = None, **overrides: Any) -> AIOKafkaConsumer:
    """A consumer that commits nothing by itself. Without a group it must be given explicit offsets."""
    options: dict[str, Any] = {
        **client_options(settings),
        "enable_auto_commit": False,
        "fetch_max_wait_ms": settings.fetch_max_wait_ms,
        "max_partition_fetch_bytes": MAX_REQUEST_BYTES,
        "auto_offset_reset": "none",
        **overrides,
    }
    if group is not None:
        options |= {
            "group_id": group_name(settings, group),
            "session_timeout_ms": settings.session_timeout_ms,
            "heartbeat_interval_ms": settings.heartbeat_interval_ms,
        }
    return AIOKafkaConsumer(**options)


async def uninterrupted(work: Coroutine[Any, Any, None]) -> None:
    """Run `work`, which opens connections, to its end also where it is cancelled, for at most a second more.

    Cancelled while it opens one, aiokafka leaves a connection that nobody closes.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=_OPENED_WITHIN_S)
        if not task.done():
            task.cancel()
        elif (error := error_of(task)) is not None:
            log.debug("cancelled, and failed as well: %s", error)
        raise


async def opened(client: Client, abandon: Abandon[Client], start: Coroutine[Any, Any, None] | None = None) -> Client:
    """`client`, once it has started, and as `start` says where that takes more than its own `start()`.

    Where that fails, or is cancelled, `abandon` leaves nothing of it open: nobody else knows of it yet. Raises
    KafkaError.
    """
    try:
        await uninterrupted(client.start() if start is None else start)
    except BaseException:
        await abandon(client)
        raise
    return client


async def started(
    settings: KafkaSettings,
    what: str,
    client: Client,
    abandon: Abandon[Client],
    start: Coroutine[Any, Any, None] | None = None,
) -> Client:
    """As `opened`, for who needs a client to do `what` (`read a`). Raises BrokerUnavailableError, AccessDeniedError."""
    try:
        return await opened(client, abandon, start)
    except KafkaError as error:
        raise await trouble(settings, what, error) from error


async def until_opened(settings: KafkaSettings, what: str, attempt: Callable[[], Awaitable[Client]]) -> Client:
    """What the first `attempt` gives that succeeds, in place of a client that did `what` (`read a`) and is broken.

    Raises AccessDeniedError for who may not do that any more, or is let in no more.
    """
    outage = Outage(log, f"attempts to {what}")
    while True:
        try:
            client = await attempt()
        except FORBIDDEN as error:
            raise forbidden(settings, what, error) from error
        except (KafkaError, TimeoutError) as error:
            outage.failed(error)
            await raise_if_locked_out(settings)
            await asyncio.sleep(RECONNECT_S)
        else:
            outage.over()
            return client


async def find_partition(client: AIOKafkaClient, topic: str, partition: int, timeout_s: float) -> None:
    """Make sure that a producer's `client` knows a partition; it may be younger than what it knows of the topic.

    aiokafka asserts that it does. Raises UnknownTopicOrPartitionError if there is none, KafkaError, TimeoutError.
    """
    if _knows(client, topic, partition):
        return
    async with asyncio.timeout(timeout_s):
        await client._wait_on_metadata(topic)
        if not _knows(client, topic, partition):
            await client.force_metadata_update()
    if not _knows(client, topic, partition):
        raise UnknownTopicOrPartitionError(f"{topic} has no partition {partition}")


def _knows(client: AIOKafkaClient, topic: str, partition: int) -> bool:
    return partition in (client.cluster.partitions_for_topic(topic) or ())


async def close_consumer(consumer: AIOKafkaConsumer) -> None:
    """Leave the group and disconnect, within CLOSE_TIMEOUT_S, also where the consumer is broken.

    `stop()` raises what ended the fetcher, and waits for a coordinator that may wait for the broker; what it did not
    get to then stays alive. aiokafka has no public names for these parts.
    """
    # Only a member of a group has one.
    is_member = getattr(consumer._coordinator, "_coordination_task", None) is not None
    stop = consumer.stop if is_member else lambda: _stop_between_connections(consumer)
    if await _closed("consumer", stop, CLOSE_TIMEOUT_S):
        return  # else: a second call would do nothing
    consumer._closed = True  # else its destructor complains: `stop()` may not have been called yet
    if is_member:
        _end_membership(consumer._coordinator)
    if consumer._fetcher is not None:
        await _closed("fetcher", consumer._fetcher.close, CLOSE_TIMEOUT_S)
    await _closed("client", consumer._client.close, CLOSE_TIMEOUT_S)


def _end_membership(coordinator: Any) -> None:
    """Take part in the group no more, and beat no more either: the others wait until its session has expired."""
    for name in ("_coordination_task", "_heartbeat_task", "_commit_refresh_task"):
        if (task := getattr(coordinator, name)) is not None:
            task.cancel()


async def _stop_between_connections(consumer: AIOKafkaConsumer) -> None:
    """`stop()` cancels the fetcher, which may just be opening a connection: nobody would close that one. A member of a
    group needs its connections to leave it, so it cannot keep others from being opened."""
    async with consumer._client._get_conn_lock:
        await consumer.stop()


async def close_producer(producer: AIOKafkaProducer, timeout_s: float) -> None:
    """Send what is queued, then disconnect, within `timeout_s`, also where the producer is broken."""
    if not await _closed("producer", producer.stop, timeout_s):
        await abandon_producer(producer)


async def abandon_producer(producer: AIOKafkaProducer) -> None:
    """Disconnect at once and send nothing more. `stop()` would wait for what cannot be sent."""
    producer._closed = True  # else its destructor complains
    await _closed("client", producer.client.close, CLOSE_TIMEOUT_S)
    if producer._sender is not None:
        await _closed("sender", producer._sender.close, CLOSE_TIMEOUT_S)


async def _closed(what: str, close: Callable[[], Awaitable[None]], timeout_s: float) -> bool:
    try:
        async with asyncio.timeout(timeout_s):
            await close()
    except (KafkaError, TimeoutError) as error:
        log.debug("the %s did not close in order: %s %s", what, type(error).__name__, error)
        return False
    except asyncio.CancelledError:
        # Ours, or that of a fetch which the fetcher cancelled itself while it waited to try again, and let out.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        log.debug("the %s did not close in order: it stumbled over a fetch that it cancelled", what)
        return False
    return True
