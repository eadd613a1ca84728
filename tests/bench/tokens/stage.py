"""Where one service is measured alone: topics of its own, and the bench in the parts of all the others."""

import asyncio
import itertools
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.brokers import Broker
from shared.chat import load_chat_tokenizer
from shared.heartbeats import Heart
from shared.log import Appended, LogWriter, Tail, decode
from shared.records import Accepted, Record, Requested
from shared.settings import MeshSettings
from shared.topics import EVENTS, JOURNAL, Service, Topic
from tests.bench.tokens.rate import TokenLoad, due
from tests.bench.tokens.synthetic import GATEWAY, MAILBOX, OWNER, POLICY, WORKER, Synthetic
from tests.support.mesh import Mesh


@dataclass(frozen=True)
class Stage:
    """A mesh without services. The bench writes as one of them."""

    mesh: Mesh
    load: TokenLoad
    model: str
    writer: LogWriter
    _hearts: AsyncExitStack

    @property
    def settings(self) -> MeshSettings:
        return self.mesh.settings

    async def start(self, service: Service, claims: Sequence[str] = (), **env: str) -> int:
        """Start the one process that is measured, with everything beating that it needs; its pid once it is ready.

        `claims`: what the worker that is not there says that it holds.
        """
        for heart in _others(self.settings, service, self.model, claims):
            heart.start()
            self._hearts.push_async_callback(asyncio.to_thread, heart.stop)
        replica = self.mesh.add(service, **env)
        await self.mesh.wait_ready()
        return replica.process.pid

    def responses(self) -> list[Synthetic]:
        """One for each stream."""
        return [Synthetic.new(self.load.partition_of(number), self.model) for number in range(self.load.streams)]

    async def say(self, topic: Topic, records: Sequence[Record], partition: int | None = None) -> None:
        """Append in order, and wait for all acknowledgements."""
        await asyncio.gather(*(self.writer.enqueue(topic, record, partition=partition) for record in records))

    async def feed(self, topic: Topic, sources: Sequence[Callable[[], Record]]) -> None:
        """Append what each stream says next, in turn, at the load's rate, until cancelled. Raises AppendError."""
        turn = itertools.cycle(sources)
        newest: deque[asyncio.Future[Appended]] = deque(maxlen=1)
        async for count in due(self.load.tokens_per_s):
            if newest and newest[0].done():
                newest.pop().result()
            sent = [self.writer.enqueue(topic, source()) for source in itertools.islice(turn, count)]
            for future in sent:
                future.add_done_callback(_retrieved)
            newest.extend(sent)

    async def accept(self, accepted: "asyncio.Queue[str]") -> None:
        """The owner's part in a gateway's life: accept every request; its id then stands in `accepted`."""
        tail = Tail(self.settings, Service.MODERATION, JOURNAL)
        await tail.start(dict.fromkeys(range(self.settings.partitions)))
        try:
            async for batch in tail.batches():
                records = [decode(JOURNAL, record).record for record in batch]
                for requested in (record for record in records if isinstance(record, Requested)):
                    self.writer.enqueue(EVENTS, _accepted(requested))
                    accepted.put_nowait(requested.response_id)
        finally:
            await tail.stop()


@asynccontextmanager
async def stage(
    broker: Broker, load: TokenLoad, plays: Service, env: Mapping[str, str] | None = None
) -> AsyncIterator[Stage]:
    """A fresh namespace in which the bench writes as `plays`; nothing of it runs after the block."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chatmesh-bench-")))
        mesh = Mesh(broker, folder, env=env or {}, counts={}, partitions=load.partitions)
        hearts = await stack.enter_async_context(AsyncExitStack())
        await stack.enter_async_context(mesh)
        writer = LogWriter(mesh.settings, plays, "bench")
        stack.push_async_callback(writer.stop)
        await writer.start()
        yield Stage(mesh, load, load_chat_tokenizer("").model_id, writer, hearts)


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `work` as long as the block; raises what ended it early."""
    task = asyncio.create_task(work)
    try:
        yield
        if task.done():
            task.result()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _retrieved(done: "asyncio.Future[Appended]") -> None:
    """Who fails is told by the newest of a tick; the others need not complain one by one."""
    if not done.cancelled():
        done.exception()


def _others(settings: MeshSettings, measured: Service, model: str, claims: Sequence[str]) -> list[Heart]:
    """Everybody who is not there, ready for anything; history is not asked."""
    steps = itertools.count(1)
    hearts = {
        Service.GATEWAY: Heart(settings, Service.GATEWAY, GATEWAY),
        Service.MODERATION: Heart(settings, Service.MODERATION, OWNER),
        Service.INFERENCE: Heart(settings, Service.INFERENCE, WORKER, steps=lambda: next(steps)),
    }
    hearts[Service.MODERATION].update(partitions=list(range(settings.partitions)))
    hearts[Service.INFERENCE].update(
        partitions=[MAILBOX],
        slots_free=1 << 20,
        slots_total=1 << 20,
        model=model,
        context_window=8192,
        claims=list(claims),
    )
    for heart in hearts.values():
        heart.update(state="ready")
    # A second one of the measured kind would take half of its partitions away.
    return [heart for service, heart in hearts.items() if service is not measured]


def _accepted(requested: Requested) -> Accepted:
    return Accepted(
        response_id=requested.response_id,
        tenant=requested.tenant,
        spec=requested.spec,
        policy=POLICY,
        created_ms=requested.created_ms,
        deadline_ms=requested.deadline_ms,
        input_tokens=requested.input_tokens,
    )
