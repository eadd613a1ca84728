"""One worker with an engine that says what the test tells it to, the real tokenizer and a broker in memory."""

import asyncio
from collections.abc import Sequence
from typing import Any

from services.inference.mailbox import Mailbox
from services.inference.meter import InferenceMeter
from services.inference.worker import Worker
from shared.chat import ChatTokenizer
from shared.ids import now_ms
from shared.records import Claimed, Finish, Job, Journal, Message, Released, Requested, ResponseSpec, Sampling, Tokens
from shared.telemetry.metrics import Metrics
from shared.topics import JOBS, JOURNAL, Service
from tests.support.fakes import FakeEngine, FakeHeart, FakeMailbox, MemoryLog, MemoryReplayer, MemoryWriter, settle
from tests.support.owner_bench import START_MS, response_id

MAILBOX = 5
PROMPT = [Message(role="user", parts=["Say hello."])]


def job(number: int = 1, attempt: int = 1, *, max_output_tokens: int | None = None, **changes: Any) -> Job:
    """A job that anybody may finish within a minute."""
    fields: dict[str, Any] = {
        "response_id": response_id(number),
        "attempt": attempt,
        "prompt": PROMPT,
        "sampling": Sampling(temperature=0.0, max_output_tokens=max_output_tokens),
        "deadline_ms": now_ms() + 60_000,
        "model": "m",
        "journal_offset": 0,
    }
    return Job(**(fields | changes))


class WorkerBench:
    """`journal` is what the worker wrote; `past` what stood there before."""

    def __init__(self, tokenizer: ChatTokenizer, *, slots: int = 2) -> None:
        self.log = MemoryLog()
        self.tokenizer = tokenizer
        self.writer = MemoryWriter(self.log, Service.INFERENCE)
        self.replayer = MemoryReplayer(self.log, Service.INFERENCE)
        self.engine = FakeEngine(slots=slots, context_window=tokenizer.context_window)
        self.heart = FakeHeart()
        self.metrics = Metrics(Service.INFERENCE)
        self.mailbox = FakeMailbox(self.log)
        self.worker = Worker(
            "worker_1",
            self.engine,
            tokenizer,
            self.writer,
            self.replayer,
            self.heart,  # type: ignore[arg-type]
            InferenceMeter(self.metrics),
        )
        self.mail_handler = Mailbox(self.worker, self.writer, self.mailbox)  # type: ignore[arg-type]
        self._read = 0

    async def start(self) -> "WorkerBench":
        """The engine is ready and watched, the mailbox is ours."""
        await self.engine.start(self.worker.on_outputs, lambda _line: None)
        await self.worker.on_assigned([MAILBOX])
        self.watch = asyncio.create_task(self.worker.keep_engine_alive())
        return self

    async def stop(self) -> None:
        """Nothing goes on behind the test."""
        self.watch.cancel()
        await asyncio.gather(self.watch, return_exceptions=True)

    # -- others ------------------------------------------------------------------------------------------------

    def past(self, *records: Journal) -> None:
        """Others appended this to the journal, after the request."""
        if self.log.end(JOURNAL, 3) == 0:
            spec = ResponseSpec(model="m", input=PROMPT)
            request = Requested(
                response_id=response_id(1),
                tenant="acme",
                spec=spec,
                created_ms=START_MS,
                deadline_ms=START_MS + 60_000,
                input_tokens=5,
            )
            self.log.append(JOURNAL, request)
        for record in records:
            self.log.append(JOURNAL, record)

    async def mail(self, *records: Any) -> None:
        """The owner sends these; they reach the worker in one batch."""
        for record in records:
            self.log.append(JOBS, record, MAILBOX)
        await self.deliver()

    async def deliver(self) -> None:
        """Hand over what lies in the mailbox."""
        batch = self.log.read(JOBS, MAILBOX, self._read)
        self._read += len(batch)
        await self.mail_handler.take(batch)
        await settle()

    async def redeliver(self) -> None:
        """The whole mailbox again, as after a rebalance that lost the commits."""
        self._read = 0
        await self.deliver()

    async def say(self, claim: str, ids: Sequence[int], finish: str | None = None, **more: Any) -> None:
        """One engine step for one claim."""
        self.engine.say(claim, ids, finish, **more)
        await settle()

    # -- what the worker wrote ---------------------------------------------------------------------------------

    def written(self, kind: type[Any], number: int = 1) -> list[Any]:
        """The journal records of a kind on a response, those of `past` included."""
        return [record for record in self.log.of(JOURNAL, kind) if record.response_id == response_id(number)]

    @property
    def claim(self) -> str:
        """The worker's latest claim."""
        return str([c for c in self.log.of(JOURNAL, Claimed) if c.worker == "worker_1"][-1].claim)

    @property
    def released(self) -> list[Released]:
        return self.log.of(JOURNAL, Released)

    @property
    def free(self) -> int:
        """Free slots as the next heartbeat tells them."""
        return int(self.heart.says["slots_free"])


def by_another(tokenizer: ChatTokenizer, ids: Sequence[int], finish: Finish | None = None) -> list[Journal]:
    """Attempt 1 as another worker left it."""
    decoder = tokenizer.decode_stream()
    pieces = ["" if token in tokenizer.eos_ids else decoder.push(token) for token in ids]
    return [
        Claimed(response_id=response_id(1), claim="claim_x", attempt=1, worker="worker_x", mailbox=1),
        Tokens(response_id=response_id(1), claim="claim_x", position=0, ids=list(ids), pieces=pieces, finish=finish),
    ]
