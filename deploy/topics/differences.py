"""How the topics on the broker differ from what the registry declares, and which take no records for want of copies."""

from collections.abc import Mapping

from shared.log.admin import TopicFound, topics_found
from shared.log.clients import topic_name
from shared.settings import MeshSettings
from shared.topics import REGISTRY, Topic


async def find(settings: MeshSettings) -> list[str]:
    """A line per difference. Raises BrokerUnavailableError, AccessDeniedError."""
    found = await topics_found(settings, REGISTRY.values())
    return [line for topic in REGISTRY.values() for line in compare(settings, topic, found)]


def compare(settings: MeshSettings, topic: Topic, found: Mapping[str, TopicFound]) -> list[str]:
    """A line per difference of one topic. Pure."""
    name = topic_name(settings, topic)
    there = found.get(name)
    if there is None:
        return [f"{name}: missing"]
    partitions = topic.partitions or settings.partitions
    wanted = {
        "partitions": str(partitions),
        "replication factor": str(settings.replication_factor),
        **topic.broker_config(settings.min_insync_replicas),
    }
    is_so = {"partitions": str(there.partitions), "replication factor": str(there.replicas), **there.config}
    lines = [
        f"{name}: {key} is {is_so.get(key, 'not set')}, not {value}"
        for key, value in wanted.items()
        if is_so.get(key) != value
    ]
    if closed := sum(copies < settings.min_insync_replicas for copies in there.in_sync):
        least = f"fewer than {settings.min_insync_replicas} copies are in sync"
        lines.append(f"{name}: {closed} of {there.partitions} partitions take no records now: {least}")
    return lines
