"""Reading the dead-letter queues, as an operator may."""

import logging
from collections.abc import Iterable
from typing import Any

from deploy.terminal.dlq.letters import Letter, collect
from shared.errors import LogError, RecordError
from shared.log import RawRecord, Tail, decode, partitions_found
from shared.records.codec import Envelope
from shared.settings import MeshSettings
from shared.topics import DEAD_LETTERS, Outsider, Topic

log = logging.getLogger(__name__)


async def read_letters(settings: MeshSettings, topics: Iterable[str]) -> list[Letter]:
    """All that lies aside of these topics now, queue by queue. Raises LogError where no mesh ever ran."""
    found: list[Letter] = []
    for topic in sorted(topics):
        found += await _read(settings, topic)
    return found


async def _read(settings: MeshSettings, source: str) -> list[Letter]:
    queue = DEAD_LETTERS[source]
    if not await partitions_found(settings, queue):
        name = settings.namespace + queue.name
        raise LogError(f"no mesh has run on the broker at {settings.bootstrap_servers}: there is no topic {name}")
    tail = Tail(settings, Outsider.OPERATOR, queue, skips_gone=True)
    await tail.start_since([0], 0)
    try:
        return collect(
            [found async for batch in tail.backlog() for record in batch for found in _readable(queue, record)]
        )
    finally:
        await tail.stop()


def _readable(queue: Topic, record: RawRecord) -> list[Envelope[Any]]:
    """One that this release cannot read hides no other."""
    try:
        return [decode(queue, record)]
    except RecordError as error:
        log.warning("leaves out what it cannot read at %s@%d: %s", queue.name, record.offset, error)
        return []
