"""Reading the mesh's own topics from tests, as the services do."""

import asyncio
from typing import Any

from aiokafka import TopicPartition

from shared.heartbeats import Cluster, ClusterWatcher
from shared.ids import parse_response_id
from shared.log import RawRecord, Replayer, decode
from shared.log.clients import make_consumer, topic_name
from shared.log.tail import raw
from shared.records.codec import Envelope
from shared.topics import EVENTS, JOURNAL, Service, Topic
from tests.support.mesh import Mesh


async def sub_log(mesh: Mesh, topic: Topic, response_id: str) -> list[Envelope[Any]]:
    """All records of a response in one of the log topics."""
    replayer = Replayer(mesh.settings, Service.MODERATION)
    await replayer.start()
    try:
        return (await replayer.replay(topic, parse_response_id(response_id))).records
    finally:
        await replayer.stop()


async def events_of(mesh: Mesh, response_id: str) -> list[Any]:
    """The response's public records."""
    return [envelope.record for envelope in await sub_log(mesh, EVENTS, response_id)]


async def journal_of(mesh: Mesh, response_id: str) -> list[Any]:
    """The response's internal records."""
    return [envelope.record for envelope in await sub_log(mesh, JOURNAL, response_id)]


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


async def cluster_of(mesh: Mesh) -> Cluster:
    """Who is alive, after two beats of everybody."""
    watcher = ClusterWatcher(mesh.settings, Service.GATEWAY)
    await watcher.start()
    try:
        await asyncio.sleep(2.5 * mesh.settings.heartbeat_ms / 1000)
        return watcher.cluster
    finally:
        await watcher.stop()
