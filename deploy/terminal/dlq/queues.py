"""Reading the dead-letter queues, as an operator may."""

import logging
from collections.abc import Iterable
from typing import Any

from deploy.terminal.dlq.letters import Letter, collect
from shared.errors import RecordError
from shared.log import RawRecord, Tail, decode, existing_partitions
from shared.records import DeadLetter
from shared.records.codec import Envelope
from shared.settings import MeshSettings
from shared.topics import DEAD_LETTERS, Outsider

log = logging.getLogger(__name__)

_SHOWN_CHARACTERS = 100


async def read_letters(settings: MeshSettings, topics: Iterable[str]) -> list[Letter]:
    """All that lies aside of these topics now, queue by queue. Raises LogError where no mesh ever ran."""
    found: list[Letter] = []
    for topic in sorted(topics):
        found += await _read(settings, topic)
    return found


async def _read(settings: MeshSettings, source: str) -> list[Letter]:
    queue = DEAD_LETTERS[source]
    await existing_partitions(settings, queue)  # raises where there is none
    tail = Tail(settings, Outsider.OPERATOR, queue, skips_gone=True)
    await tail.start_since([0], 0)  # all that it has; an offset names a letter by itself
    try:
        return collect(
            [found async for batch in tail.backlog() for record in batch for found in readable(source, record)]
        )
    finally:
        await tail.stop()


def readable(source: str, record: RawRecord) -> list[Envelope[Any]]:
    """One that this release cannot read, or that is of another queue, hides no other."""
    queue = DEAD_LETTERS[source]
    try:
        found = decode(queue, record)
        if isinstance(found.record, DeadLetter) and found.record.origin_topic != source:
            raise RecordError(f"it says that it is from {found.record.origin_topic[:_SHOWN_CHARACTERS]!r}")
    except RecordError as error:
        log.warning("leaves out what it cannot read at %s@%d: %s", queue.name, record.offset, error)
        return []
    return [found]
