"""A client that reads one byte a second: nobody else is slowed, it is let go, and it gets the whole text later."""

import asyncio
import math
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from shared.records import Detached, Requested
from shared.topics import JOURNAL, Service
from tests.chaos.evidence import SubLog, Violation
from tests.chaos.figures import row
from tests.chaos.observations import now
from tests.chaos.scenarios import logs
from tests.chaos.scenarios.rules import closed, grown, slowed
from tests.chaos.scenarios.slow_sockets import SlowEvents, SlowFrames, SlowSocket
from tests.chaos.scenarios.stage import LAG_LIMIT_S, PATIENCE_S, Outcome, Stage, gateway
from tests.support.mesh import Replica

POLL_S = 0.5
READERS = 3
"""Of each kind."""
TOKENS = 160
INSTRUCTIONS = "=" * 200_000
"""Three thousand tokens, echoed in three events of every answer: more than the buffers of a connection hold."""
SLACK_S = 10.0
"""How long the buffers between client and gateway may take to fill."""
MEMORY_BYTES = 24 * 1024 * 1024
"""By so much the gateway may grow while they stand still."""


async def slow_readers(stage: Stage) -> Outcome:
    """Some of them at one gateway, beside ordinary clients."""
    replica = stage.mesh.of(Service.GATEWAY)[0]
    here = gateway(replica)
    questions = await stage.questions(2 * READERS, TOKENS, before=(("system", INSTRUCTIONS),))
    requests = [question.wanted(instructions=INSTRUCTIONS) for question in questions]
    slow: list[SlowSocket] = [SlowEvents(here, wanted) for wanted in requests[:READERS]]
    slow += [SlowFrames(here, wanted) for wanted in requests[READERS:]]
    others = [stage.client(lambda: [here]) for _ in range(READERS)]
    async with asyncio.TaskGroup() as group:
        for client, question in zip(others, await stage.questions(READERS, TOKENS), strict=True):
            group.create_task(client.run(question.wanted(), PATIENCE_S))
        crawling = [group.create_task(_crawl(connection)) for connection in slow]
        left_s, (begun_bytes, *later_bytes) = await _until_left(
            [connection.prompt for connection in slow], stage, replica
        )
        for task in crawling:
            task.cancel()
        for connection in slow:
            group.create_task(_resume(stage, connection))
    stalled_s = [left_s.get(connection.prompt, math.inf) for connection in slow]
    found = [v for pair in zip(slow, stalled_s, strict=True) for v in _closed(*pair)]
    found += grown(replica.id, begun_bytes, max([begun_bytes, *later_bytes]), MEMORY_BYTES)
    waits, late = slowed(stage.notebook.lines, [client.number for client in others], LAG_LIMIT_S)
    rows = [
        row("slow reader: let go after", len(slow), [s for s in stalled_s if s < math.inf]),
        row("slow reader: longest silence of the others", len(slow), waits),
    ]
    return Outcome([*found, *late], rows)


async def _crawl(connection: SlowSocket) -> None:
    await connection.open()
    await connection.crawl()


async def _resume(stage: Stage, connection: SlowSocket) -> None:
    """Read what the gateway had sent, then the rest, as fast as anybody."""
    client = stage.client()
    client.asked(connection.prompt)
    await connection.drain()
    for event in await connection.events():
        client.see(msgspec.json.decode(event))
    await client.read_on(connection.wanted, PATIENCE_S)


async def _until_left(prompts: Sequence[str], stage: Stage, replica: Replica) -> tuple[dict[str, float], list[int]]:
    """Prompt → how long the gateway was patient with its reader (the journal tells), in seconds, and how much memory
    the gateway had, from when it had taken in the requests on."""
    deadline, resident_bytes, left_s = now() + LAG_LIMIT_S + SLACK_S, list[int](), dict[str, float]()
    while len(left_s) < len(prompts) and now() < deadline:
        await asyncio.sleep(POLL_S)
        journals = (await logs.sub_logs(stage.mesh, JOURNAL)).values()
        resident_bytes.append(_resident_bytes(replica.process.pid))
        if len({_prompt(journal) for journal in journals}.intersection(prompts)) < len(prompts):
            resident_bytes.clear()
        left_s = {
            _prompt(j): seconds for j in journals if _prompt(j) in prompts and (seconds := _left_s(j)) is not None
        }
    return left_s, resident_bytes or [0]


def _prompt(journal: SubLog) -> str:
    requested = journal[0].record
    assert isinstance(requested, Requested)
    return requested.spec.input[-1].text


def _left_s(journal: SubLog) -> float | None:
    """From the request until its gateway had no reader any more."""
    detached = next((e.timestamp_ms for e in journal if isinstance(e.record, Detached)), None)
    return None if detached is None else (detached - journal[0].timestamp_ms) / 1000


def _closed(connection: SlowSocket, stalled_s: float) -> Iterator[Violation]:
    name = f"{type(connection).__name__} of {connection.prompt!r}"
    return closed(name, stalled_s, LAG_LIMIT_S, SLACK_S, connection.end, connection.ends_with)


def _resident_bytes(pid: int) -> int:
    """How much memory a process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()
