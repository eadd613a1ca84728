"""DESIGN 5 with the real model: its thread dies in a step, and what it had said is gone on with exactly there."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from services.inference.engines import TransformersSettings
from services.inference.engines.transformers import TransformersEngine
from services.inference.mailbox import Mailbox
from services.inference.worker import Worker
from shared.chat import ChatTokenizer
from shared.folds import JournalFold
from shared.records import Claimed, Finish, Message, Released, Tokens
from shared.topics import JOBS, JOURNAL, Service
from tests.support.fakes import FakeHeart, FakeMailbox, MemoryLog, MemoryReplayer, MemoryWriter
from tests.support.owner_bench import requested, response_id
from tests.unit.inference.worker.bench import MAILBOX, job

pytestmark = pytest.mark.weights

R = response_id(1)
LIMIT = 24
LONG = [Message(role="user", parts=["Write a long story about a lighthouse."])]
TIMEOUT_S = 60.0


class RealWorker:
    """A worker on a broker in memory whose engine runs the default model. The test plays the owner."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self.log = MemoryLog()
        self.tokenizer = tokenizer
        self.engine = TransformersEngine(TransformersSettings(slots=2, cache_tokens=4_096), tokenizer)
        self.heart = FakeHeart()
        writer = MemoryWriter(self.log, Service.INFERENCE)
        replayer = MemoryReplayer(self.log, Service.INFERENCE)
        self.worker = Worker("worker_1", self.engine, tokenizer, writer, replayer, self.heart)  # type: ignore[arg-type]
        self._mailbox = Mailbox(self.worker, writer, FakeMailbox(self.log))  # type: ignore[arg-type]
        self._read = 0

    async def mail(self, attempt: int) -> None:
        start = self.log.end(JOBS, MAILBOX)
        sent = job(attempt=attempt, max_output_tokens=LIMIT, prompt=LONG, model=self.engine.info.id)
        self.log.append(JOBS, sent, MAILBOX)
        await self._mailbox.take(self.log.read(JOBS, MAILBOX, start))

    @property
    def fold(self) -> JournalFold:
        fold = JournalFold()
        for record in self.log.of(JOURNAL):
            fold.apply(record)
        return fold

    async def until(self, holds: Callable[[JournalFold], bool]) -> JournalFold:
        async with asyncio.timeout(TIMEOUT_S):
            while not holds(fold := self.fold):
                await asyncio.sleep(0.01)
        return fold


@pytest.fixture
async def real(tokenizer: ChatTokenizer) -> AsyncIterator[RealWorker]:
    bench = RealWorker(tokenizer)
    bench.log.append(JOURNAL, requested())
    await bench.engine.start(bench.worker.on_outputs, lambda _line: None)
    watch = asyncio.create_task(bench.worker.keep_engine_alive())
    yield bench
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)
    await bench.engine.close()


async def test_a_thread_that_dies_is_replaced_and_the_response_goes_on(real: RealWorker) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("broken on purpose")

    for attempt in (1, 2):
        before = real.fold.position
        await real.mail(attempt)
        await real.until(lambda fold, before=before: fold.position > before + 3)  # type: ignore[misc]
        hook = real.engine.model.register_forward_pre_hook(fail)
        await real.until(lambda fold: fold.owner is not None and not fold.owner.live)
        hook.remove()
        async with asyncio.timeout(TIMEOUT_S):
            while not real.engine.alive:
                await asyncio.sleep(0.01)
    await real.mail(3)
    fold = await real.until(lambda fold: fold.decision is not None)

    assert isinstance(fold.decision, Finish)
    assert len(real.log.of(JOURNAL, Claimed)) == 3
    assert ["broken on purpose" in r.reason for r in real.log.of(JOURNAL, Released)] == [True, True]
    said = real.log.of(JOURNAL, Tokens)
    positions = [record.position + n for record in said for n in range(len(record.ids))]
    assert positions == list(range(fold.position)), "no token twice, none missing"
    assert fold.text == real.tokenizer.decode(fold.ids)
    assert (real.heart.says["slots_free"], real.heart.says["claims"]) == (2, [])
