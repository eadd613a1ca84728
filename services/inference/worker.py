"""The mailbox worker: jobs in, claims and tokens out (DESIGN 5).

A job's offset is committed once its claim is acknowledged; from then on only the owner's watch starts a new
attempt. The mailbox is never paused: what the engine cannot hold is claimed and released at once.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from services.inference.claims import Seam, limit_of, said_before, seam_at
from services.inference.engines.port import Engine, EngineError, StepOutput
from services.inference.generation import Generation
from shared.chat import ChatTemplateError, ChatTokenizer
from shared.errors import (
    AppendError,
    ChatmeshError,
    InvalidIdError,
    LogError,
    MalformedRecordError,
    RecordError,
)
from shared.heartbeats import Heart
from shared.ids import new_id, now_ms, parse_response_id
from shared.log import Appended, GroupConsumer, LogWriter, RawRecord, Replayer, dead_letter, decode
from shared.records import Claimed, Job, Journal, Released, Stop, Tokens
from shared.records.codec import Envelope
from shared.telemetry import extract, names
from shared.topics import JOBS, JOURNAL, Service

log = logging.getLogger(__name__)
tracer = trace.get_tracer("chatmesh.inference")


class Worker:
    """Holds at most the engine's slots of generations; every one of them is a claim that the heartbeats name."""

    def __init__(
        self,
        service_id: str,
        engine: Engine,
        tokenizer: ChatTokenizer,
        writer: LogWriter,
        replayer: Replayer,
        heart: Heart,
    ) -> None:
        self._id = service_id
        self._engine = engine
        self._tokenizer = tokenizer
        self._writer = writer
        self._replayer = replayer
        self._heart = heart
        self._held: dict[str, Generation] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._engine_died = asyncio.Event()
        self._draining = False

    # -- the mailbox -----------------------------------------------------------------------------------------

    async def on_mail(self, batch: Sequence[RawRecord], mailbox: GroupConsumer) -> None:
        """Claim every job of the batch, obey every stop, then commit."""
        claims: list[asyncio.Future[Appended]] = []
        for record in batch:
            try:
                envelope = _decode(record)
            except RecordError as error:
                log.error("job %d/%d goes to the dead letters: %s", record.partition, record.offset, error)
                claims.append(dead_letter(self._writer, Service.INFERENCE, JOBS, record, error))
                continue
            if isinstance(envelope.record, Stop):
                self._obey(envelope.record)
            elif (claim := self._claim(envelope)) is not None:
                claims.append(claim)
        # A claim that failed is not retried: the owner's watch sends the job anew after its claim timeout.
        await asyncio.gather(*claims, return_exceptions=True)
        for partition, offset in {r.partition: r.offset for r in batch}.items():
            try:
                await mailbox.commit(partition, offset + 1)
            except LogError as error:
                # The mail comes again: jobs that are held are recognised, ended ones are stopped by their owner.
                log.warning("%s", error)

    def _claim(self, envelope: Envelope[Job]) -> asyncio.Future[Appended] | None:
        job = envelope.record
        if job.deadline_ms < now_ms() or self._holds(job):
            return None
        claim = new_id("claim")
        record = Claimed(
            response_id=job.response_id,
            claim=claim,
            attempt=job.attempt,
            worker=self._id,
            mailbox=envelope.partition,
            model=self._engine.info.id,
            revision=self._engine.info.revision,
        )
        claimed = self._send(record)
        if not self._engine.alive:
            self._revive()
        if self._draining or len(self._held) >= self._engine.info.slots or not self._engine.alive:
            self._release_record(job, claim, "no free slot", full=True)
            return claimed
        try:
            generation = self._hold(envelope, claim)
        except ChatTemplateError as error:
            self._release_record(job, claim, str(error))
            return claimed
        if job.attempt == 1:
            # Nothing can have been said before: the engine starts while the claim is still on its way. The
            # writer keeps the order, so no token can stand in the journal before the claim.
            self._start(generation, ())
        task = asyncio.create_task(self._confirm(generation, claimed), name=f"claim {claim}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return claimed

    def _holds(self, job: Job) -> bool:
        """A redelivered job must not be claimed twice by the same worker."""
        return any(g.job.response_id == job.response_id and g.job.attempt == job.attempt for g in self._held.values())

    def _hold(self, envelope: Envelope[Job], claim: str) -> Generation:
        """Raises ChatTemplateError if the model's template refuses the prompt."""
        job = envelope.record
        prompt_ids = tuple(self._tokenizer.encode([{"role": m.role, "content": m.text} for m in job.prompt]))
        span = tracer.start_span(names.chat(job.model), context=extract(envelope.trace), kind=SpanKind.CONSUMER)
        span.set_attributes(
            {
                **names.messaging(JOBS, "process", envelope.partition, envelope.offset),
                names.OPERATION_NAME: names.CHAT,
                names.PROVIDER_NAME: names.PROVIDER,
                names.REQUEST_MODEL: job.model,
                names.REQUEST_TEMPERATURE: job.sampling.temperature,
                names.REQUEST_TOP_P: job.sampling.top_p,
                names.RESPONSE_ID: job.response_id,
                names.ATTEMPT: job.attempt,
                names.CLAIM: claim,
            }
        )
        generation = Generation(job, claim, envelope.partition, prompt_ids, self._tokenizer, span)
        self._held[claim] = generation
        self._tell()
        return generation

    async def _confirm(self, generation: Generation, claimed: asyncio.Future[Appended]) -> None:
        """Wait for the claim's ack; a takeover then reads what was said up to it and starts there."""
        try:
            ack = await claimed
            if generation.job.attempt > 1:
                await self._take_over(generation, ack)
        except AppendError as error:
            log.warning("%s: claim not acknowledged: %s", generation.job.response_id, error)
            self._abandon(generation)
        except ChatmeshError as error:
            self._release(generation, f"takeover failed: {error}")

    async def _take_over(self, generation: Generation, ack: Appended) -> None:
        job = generation.job
        found = await self._replayer.replay(
            JOURNAL, parse_response_id(job.response_id), start=job.journal_offset, until=ack.offset
        )
        said = said_before((e.record for e in found.records), generation.claim)
        if generation.claim not in self._held:
            return
        if said is None:
            self._let_go(generation, "superseded")
            return
        self._start(generation, said)

    def _start(self, generation: Generation, said: tuple[int, ...]) -> None:
        limit = limit_of(generation.job, generation.prompt_tokens, self._tokenizer.context_window)
        seam = seam_at(said, limit, self._tokenizer.eos_ids)
        try:
            if seam.finish is not None:
                self._finish_only(generation, seam)
            else:
                self._engine.submit(generation.request(seam))
        except (EngineError, ValueError) as error:
            self._release(generation, str(error))

    def _finish_only(self, generation: Generation, seam: Seam) -> None:
        self._append(generation, generation.finish_only(seam))

    # -- the engine ------------------------------------------------------------------------------------------

    def on_outputs(self, outputs: list[StepOutput]) -> None:
        """Append what one engine step brought. Runs on the event loop."""
        for output in outputs:
            generation = self._held.get(output.request_id)
            if generation is None:
                continue
            if output.finish == "error":
                self._release(generation, output.error or "the engine failed")
                continue
            record = generation.tokens(output)
            if record is not None:
                self._append(generation, record)
            if output.finish == "cancelled":
                self._let_go(generation, output.finish)
        if not self._engine.alive:
            self._revive()

    def _append(self, generation: Generation, record: Tokens) -> None:
        self._send(record).add_done_callback(lambda done: self._check(generation, record, done))

    def _check(self, generation: Generation, record: Tokens, done: asyncio.Future[Appended]) -> None:
        """Rule 5.4: a worker whose append failed releases and stops; what follows would leave a gap.

        So a generation is held until its finish stands in the log.
        """
        error = None if done.cancelled() else done.exception()
        if isinstance(error, AppendError):
            self._release(generation, str(error))
        elif error is not None:
            raise error
        elif record.finish is not None:
            self._let_go(generation, record.finish.reason)

    def _send(self, record: Journal) -> asyncio.Future[Appended]:
        """Append to the journal; what the writer refuses at once, because it is full, has failed like any other."""
        try:
            return self._writer.enqueue(JOURNAL, record)
        except AppendError as error:
            failed: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
            failed.set_exception(error)
            return failed

    def _revive(self) -> None:
        if not self._draining:
            self._engine_died.set()
            self._tell()

    async def keep_engine_alive(self) -> None:
        """Restart the engine whenever its loop died, until cancelled.

        Raises EngineError if it cannot be revived: the service must end, for it can answer nobody.
        """
        while True:
            await self._engine_died.wait()
            self._engine_died.clear()
            if not self._engine.alive:
                log.error("the engine's loop died: restarting it")
                await self._engine.restart()
                self._tell()

    # -- ends ------------------------------------------------------------------------------------------------

    def _obey(self, stop: Stop) -> None:
        for generation in list(self._held.values()):
            if generation.job.response_id == stop.response_id and stop.claim in (None, generation.claim):
                self._abandon(generation)

    def release_all(self, reason: str) -> None:
        """Hand every generation back to its owner: shutdown."""
        self._draining = True
        for generation in list(self._held.values()):
            self._release(generation, reason)

    async def settle(self) -> None:
        """Wait for the tasks that still run."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _release(self, generation: Generation, reason: str) -> None:
        if generation.claim in self._held:
            log.warning("%s: releases its claim: %s", generation.job.response_id, reason)
            self._release_record(generation.job, generation.claim, reason)
            generation.span.set_status(Status(StatusCode.ERROR, reason))
            self._abandon(generation)

    def _release_record(self, job: Job, claim: str, reason: str, *, full: bool = False) -> None:
        record = Released(
            response_id=job.response_id, claim=claim, attempt=job.attempt, worker=self._id, reason=reason, full=full
        )
        self._send(record).add_done_callback(_ignore_loss)

    def _abandon(self, generation: Generation) -> None:
        """Free the slot; the engine's last output for it finds nobody."""
        self._engine.cancel(generation.claim)
        self._let_go(generation, "cancelled")

    def _let_go(self, generation: Generation, outcome: str) -> None:
        if self._held.pop(generation.claim, None) is None:
            return
        generation.span.set_attributes(
            {
                names.RESPONSE_FINISH_REASONS: [outcome],
                names.RESPONSE_MODEL: self._engine.info.id,
                names.USAGE_INPUT_TOKENS: generation.prompt_tokens,
                names.USAGE_OUTPUT_TOKENS: generation.output_tokens,
            }
        )
        generation.span.end()
        self._tell()

    def _tell(self) -> None:
        # A dead engine offers nothing: what it released would come right back and lose an attempt each time.
        slots = self._engine.info.slots
        free = slots - len(self._held) if self._engine.alive else 0
        self._heart.update(slots_total=slots, slots_free=free, claims=list(self._held))

    def on_assigned(self, mailboxes: Iterable[int]) -> None:
        """The group gave us these mailboxes."""
        self._heart.update(partitions=sorted(mailboxes))


def _decode(record: RawRecord) -> Envelope[Any]:
    """Raises RecordError, also where there is no response that could be claimed."""
    envelope = decode(JOBS, record)
    try:
        parse_response_id(envelope.record.response_id)
    except InvalidIdError as error:
        raise MalformedRecordError(str(error)) from error
    return envelope


def _ignore_loss(done: "asyncio.Future[Appended]") -> None:
    """A lost `released` costs only time: the heartbeats no longer name the claim, so the owner's watch sees it."""
    error = None if done.cancelled() else done.exception()
    if error is not None and not isinstance(error, AppendError):
        raise error
