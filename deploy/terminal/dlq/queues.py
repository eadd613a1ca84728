"""Reading the dead-letter queues, as an operator may."""

from collections.abc import Iterable

from deploy.terminal.dlq.letters import Letter, collect
from shared.errors import LogError
from shared.log import Tail, decode, partitions_found
from shared.settings import MeshSettings
from shared.topics import DEAD_LETTERS, Outsider


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
        return collect([decode(queue, record) async for batch in tail.backlog() for record in batch])
    finally:
        await tail.stop()
