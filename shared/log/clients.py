"""Constructor arguments of the Kafka clients, in one place, each with its reason."""

from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from shared.settings import KafkaSettings
from shared.topics import Topic

MAX_REQUEST_BYTES = 4 * 1024 * 1024


def topic_name(settings: KafkaSettings, topic: Topic) -> str:
    """The topic's name on the broker: the mesh's namespace comes first."""
    return settings.namespace + topic.name


def group_name(settings: KafkaSettings, group: str) -> str:
    """The consumer group's name on the broker."""
    return settings.namespace + group


def client_options(settings: KafkaSettings) -> dict[str, Any]:
    """What every client takes."""
    return {
        "bootstrap_servers": settings.bootstrap_servers,
        "request_timeout_ms": settings.request_timeout_ms,
    }


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
