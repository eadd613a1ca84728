"""The mesh's own topics and store, read whole."""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from aiokafka import TopicPartition

from services.history.settings import HistorySettings
from services.history.stores.port import StoredResponse
from services.history.stores.sqlite import SqliteStore
from shared.log import RawRecord, decode
from shared.log.clients import make_consumer, topic_name
from shared.log.tail import raw
from shared.records.codec import Envelope
from shared.settings import load_settings
from shared.topics import Topic
from tests.support.mesh import Mesh

TENANT = "local"


async def raw_records(mesh: Mesh, topic: Topic) -> list[RawRecord]:
    """Every record of a topic as it stands there, in log order per partition."""
    settings, found = mesh.settings, list[RawRecord]()
    consumer = make_consumer(settings)
    await consumer.start()
    try:
        numbers = range(topic.partitions or settings.partitions)
        partitions = [TopicPartition(topic_name(settings, topic), number) for number in numbers]
        consumer.assign(partitions)
        begins, ends = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
        for partition in partitions:
            consumer.seek(partition, begins[partition])
        while any([await consumer.position(p) < ends[p] for p in partitions]):
            for messages in (await consumer.getmany(timeout_ms=500)).values():
                found += map(raw, messages)
    finally:
        await consumer.stop()
    return found


async def records(mesh: Mesh, topic: Topic) -> list[Envelope[Any]]:
    """The same, decoded."""
    return [decode(topic, record) for record in await raw_records(mesh, topic)]


async def sub_logs(mesh: Mesh, topic: Topic) -> dict[str, list[Envelope[Any]]]:
    """Every record of a log topic, by response."""
    return by_response(await records(mesh, topic))


def by_response(found: Iterable[Envelope[Any]]) -> dict[str, list[Envelope[Any]]]:
    """Response id → its records, in their order."""
    logs: dict[str, list[Envelope[Any]]] = {}
    for envelope in found:
        logs.setdefault(envelope.record.response_id, []).append(envelope)
    return logs


async def stored(mesh: Mesh, response_ids: Collection[str]) -> dict[str, StoredResponse | None]:
    """What history holds of each response now."""
    store = SqliteStore(store_file(mesh))
    await store.open()
    try:
        return {response_id: await store.get(TENANT, response_id) for response_id in response_ids}
    finally:
        await store.close()


def store_file(mesh: Mesh) -> Path:
    """The file that history's replicas share."""
    return load_settings(HistorySettings, data_dir=mesh.folder / "data").sqlite_file


def service_logs(mesh: Mesh) -> dict[str, list[str]]:
    """Service id → the lines of its log; those that are gone too."""
    return {
        replica.id: replica.process.log_path.read_text(errors="replace").splitlines()
        for replica in [*mesh.retired, *mesh.replicas]
    }
