"""Open streams in which nothing happens: the memory and the CPU time that each costs one gateway process."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import psutil

from deploy.brokers import Broker
from shared.topics import Service
from tests.bench.cpu import CpuMeter
from tests.bench.tokens.child import child
from tests.bench.tokens.components import READERS, gateway_port, stream_body
from tests.bench.tokens.rate import TokenLoad
from tests.bench.tokens.readers import Readers
from tests.bench.tokens.stage import Stage, beside, stage

Protocol = Literal["sse", "websocket"]

SETTLE_S = 5.0
IDLE_S = 10.0
_SPARE = 100


@dataclass(frozen=True, slots=True)
class Idle:
    """`streams` open at one gateway: resident memory before and with them (bytes), and with nothing to do the share
    of one core that the process takes then."""

    protocol: Protocol
    streams: int
    before_bytes: int
    with_bytes: int
    busy: float

    @property
    def each_kib(self) -> float:
        """Memory of one stream."""
        return (self.with_bytes - self.before_bytes) / self.streams / 1024


async def idle_streams(broker: Broker, streams: int, protocol: Protocol) -> Idle:
    """Open them, let every response be accepted and no more, look at the gateway. Raises BenchError."""
    env = {"CHATMESH_MAX_IN_FLIGHT": str(streams + _SPARE), "CHATMESH_DEADLINE_S": "3600"}
    async with stage(broker, TokenLoad(streams), Service.MODERATION, env) as there:
        process = psutil.Process(await there.start(Service.GATEWAY))
        await asyncio.sleep(SETTLE_S)
        before_bytes = process.memory_info().rss
        accepted: asyncio.Queue[str] = asyncio.Queue()
        async with beside(there.accept(accepted)), child(READERS, _readers(there, streams, protocol)):
            await asyncio.sleep(SETTLE_S)
            meter = CpuMeter({"gateway": process.pid})
            await asyncio.sleep(IDLE_S)
            busy = meter.seconds()["gateway"] / IDLE_S
            return Idle(protocol, streams, before_bytes, process.memory_info().rss, busy)


def _readers(there: Stage, streams: int, protocol: Protocol) -> bytes:
    extra = {"type": "response.create"} if protocol == "websocket" else {"stream": True}
    return Readers(gateway_port(there), streams, stream_body(there, **extra), protocol).line()


def idle_table(found: Sequence[Idle]) -> str:
    """Markdown."""
    rows = [
        "| idle streams at one gateway | memory before, MB | with them, MB | each, KiB | cores |",
        "|---|---|---|---|---|",
    ]
    rows += [
        f"| {idle.streams:,} {_NAMES[idle.protocol]} | {idle.before_bytes / 1e6:.0f} | {idle.with_bytes / 1e6:.0f} | "
        f"**{idle.each_kib:.1f}** | {idle.busy:.2f} |"
        for idle in found
    ]
    return "\n".join(rows)


_NAMES = {"sse": "server-sent events", "websocket": "WebSockets"}
