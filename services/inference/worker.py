"""The worker: jobs in, claims and tokens out (DESIGN 5). What it cannot hold it claims and releases at once."""

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Iterator
from typing import Final, get_args

from opentelemetry import trace
from opentelemetry.trace import SpanKind

from services.inference.claims import limit_of, said_before
from services.inference.engines.port import Engine, EngineDeadError, EngineFullError, StepOutput
from services.inference.generation import Ended, Generation
from services.inference.meter import ClaimOutcome, InferenceMeter
from services.inference.takeover import JournalReader
from shared.chat import ChatTemplateError, ChatTokenizer
from shared.errors import AppendError, ChatmeshError
from shared.futures import error_of
from shared.heartbeats import Heart
from shared.ids import new_id, now_ms
from shared.log import Appended, LogWriter, Replayer, failing_late
from shared.records import Claimed, Job, Journal, Released, Stop, Tokens
from shared.records.codec import Envelope
from shared.telemetry import extract, fail, names
from shared.telemetry.logs import about, cause_of
from shared.topics import JOBS, JOURNAL

log = logging.getLogger(__name__)
tracer = trace.get_tracer("chatmesh.inference")

_RELEASED: Final = "released"
_SUPERSEDED: Final = "superseded"
_STOPPED: Final = "stopped"
"""How an attempt ends that does not finish; `stop` records name others."""

HUNG_AFTER_S = 30.0
"""An engine that has not confirmed a cancel for so long hangs; a step that reads a long prompt may take seconds."""


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
        meter: InferenceMeter | None = None,
    ) -> None:
        self._meter = meter or InferenceMeter()
        self._id = service_id
        self._engine = engine
        self._tokenizer = tokenizer
        self._writer = writer
        self._journal = JournalReader(replayer)
        self._heart = heart
        self._held: dict[str, Generation] = {}
        self._leaving: dict[str, float] = {}  # cancelled claims whose slot the engine has not freed yet: since when
        self._tasks: set[asyncio.Task[None]] = set()
        self._parting: set[asyncio.Future[Appended]] = set()  # releases on their way to the log
        self._engine_died = asyncio.Event()
        self._draining = False

    # -- the mailbox -----------------------------------------------------------------------------------------

    def claim(self, envelope: Envelope[Job]) -> asyncio.Future[Appended] | None:
        """Claim the job, and start it or release it. The claim's append, or None where there is nothing to claim."""
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
        if (unable := self._unable(job)) is not None:
            self._release_record(job, claim, unable, full=True)
            self._meter.turned_away("full")
        elif (generation := self._hold(envelope, claim)) is not None:
            self._begin(generation, claimed)
        return claimed

    def _unable(self, job: Job) -> str | None:
        """Why this worker cannot even try; such a release is no attempt."""
        info = self._engine.info
        if self._draining:
            return "the worker shuts down"
        if job.model != info.id or job.revision not in ("", info.revision):
            # The job was for another worker: mailboxes change hands.
            return f"serves {info.id} {info.revision}, not {job.model} {job.revision}".rstrip()
        if self._free_slots() < 1:
            return "no free slot"
        return None

    def _begin(self, generation: Generation, claimed: asyncio.Future[Appended]) -> None:
        if generation.job.attempt == 1:
            # Nothing can have been said before: the engine starts while the claim is still on its way. The
            # writer keeps the order, so no token can stand in the journal before the claim.
            self._start(generation, ())
        task = asyncio.create_task(self._confirm(generation, claimed), name=f"claim {generation.claim}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _holds(self, job: Job) -> bool:
        """A redelivered job must not be claimed twice by the same worker."""
        return any(g.job.response_id == job.response_id and g.job.attempt == job.attempt for g in self._held.values())

    def _hold(self, envelope: Envelope[Job], claim: str) -> Generation | None:
        """Take a slot for the job; None if its prompt cannot be rendered: then the claim is released."""
        job = envelope.record
        try:
            prompt_ids = tuple(self._tokenizer.encode([{"role": m.role, "content": m.text} for m in job.prompt]))
        except Exception as error:
            # Not only ChatTemplateError: a template is a program that came with the model and met this conversation.
            if not isinstance(error, ChatTemplateError):
                log.error("%s: the prompt cannot be rendered", job.response_id, exc_info=error)
            self._release_record(job, claim, f"the prompt cannot be rendered: {cause_of(error)}")
            self._meter.turned_away(_RELEASED)
            return None
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
        except AppendError:
            self._abandon(generation, _RELEASED, AppendError.__name__)  # nobody knows of the claim
            return
        if generation.job.attempt > 1:
            with self._released_on_error(generation):
                await self._take_over(generation, ack)

    async def _take_over(self, generation: Generation, ack: Appended) -> None:
        said = said_before(await self._journal.up_to(generation.job, ack), generation.claim)
        if generation.claim not in self._held:
            return
        if said is None:
            self._let_go(generation, _SUPERSEDED)
            return
        generation.span.add_event(names.TAKEOVER, {names.ATTEMPT: generation.job.attempt, names.POSITION: len(said)})
        self._start(generation, said)

    def _start(self, generation: Generation, said: tuple[int, ...]) -> None:
        """Go on behind `said`, by this worker's window: another's may be longer."""
        with self._released_on_error(generation):
            limit = limit_of(generation.job, generation.prompt_tokens, self._engine.info.context_window)
            seam = generation.resume(said, limit)
            if seam.finish is not None:
                self._append(generation, generation.finish_only(seam))
            else:
                self._engine.submit(generation.request(seam))
                generation.running = True

    @contextlib.contextmanager
    def _released_on_error(self, generation: Generation) -> Iterator[None]:
        """Whatever goes wrong with one generation is its own affair: it is released, and the others go on."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 (told by _release_after)
            self._release_after(generation, error)

    def _release_after(self, generation: Generation, error: Exception) -> None:
        if isinstance(error, EngineFullError):
            # A slot whose request was cancelled a moment ago: the engine frees it with its next step.
            self._release(generation, str(error), type(error).__name__, full=True)
        elif isinstance(error, ChatmeshError):
            self._release(generation, str(error), type(error).__name__)
        else:
            span = about(generation.span)
            log.error("%s: claim %s failed", generation.job.response_id, generation.claim, exc_info=error, extra=span)
            self._release(generation, cause_of(error), type(error).__name__)

    # -- the engine ------------------------------------------------------------------------------------------

    def on_outputs(self, outputs: list[StepOutput]) -> None:
        """Append what one engine step brought. Runs on the event loop."""
        for output in outputs:
            if output.request_id in self._leaving:
                self._on_leaving(output)
            elif (generation := self._held.get(output.request_id)) is not None:
                try:  # not `_released_on_error`: entering a context costs as much as the rest, for every token
                    self._on_output(generation, output)
                except Exception as error:  # noqa: BLE001 (told by _release_after)
                    self._release_after(generation, error)
        if not self._engine.alive:
            self._revive()

    def _on_leaving(self, output: StepOutput) -> None:
        """What a cancelled request still says counts for nothing; with its last word the slot is free."""
        if output.finish is not None:
            del self._leaving[output.request_id]
            self._tell()

    def _on_output(self, generation: Generation, output: StepOutput) -> None:
        if output.finish is not None:
            generation.running = False
        if output.finish == "error":
            self._release(generation, output.error or "the engine failed", "engine_failed")
            return
        record = generation.tokens(output)
        if record is not None:
            self._append(generation, record)
            generation.timing.said(len(record.ids))
            if record.finish is not None:
                self._leave(generation)  # a stop string may end what the engine would go on with
        if output.finish == "cancelled":
            self._let_go(generation, output.finish)

    def _append(self, generation: Generation, record: Tokens) -> None:
        self._send(record).add_done_callback(lambda done: self._check(generation, record, done))

    def _check(self, generation: Generation, record: Tokens, done: asyncio.Future[Appended]) -> None:
        """Rule 5.4: a worker whose append failed releases and stops; what follows would leave a gap.

        So a generation is held until its finish stands in the log.
        """
        error = error_of(done)
        if isinstance(error, AppendError):
            self._release(generation, str(error), type(error).__name__)
        elif error is not None:
            raise error
        else:
            self._meter.tokens += 0 if done.cancelled() else len(record.ids)
            if record.finish is not None:
                self._let_go(generation, record.finish.reason)

    def _send(self, record: Journal) -> asyncio.Future[Appended]:
        """Append to the journal."""
        return failing_late(self._writer.enqueue, JOURNAL, record)

    def _revive(self) -> None:
        if not self._draining:
            self._engine_died.set()
            self._tell()

    async def keep_engine_alive(self) -> None:
        """Restart the engine whenever its loop died, until cancelled.

        Raises EngineError if it cannot be revived, or hangs: the service must end, for it can answer nobody, and
        would be sent one job after the other.
        """
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HUNG_AFTER_S / 10):
                    await self._engine_died.wait()
            self._engine_died.clear()
            if not self._engine.alive:
                log.error("the engine's loop died")
                await self._engine.restart()
                log.warning("the engine generates again")
                self._leaving.clear()
                self._tell()
            self._check_leaving()

    def _check_leaving(self) -> None:
        """Raises EngineDeadError if a cancel was not confirmed in time: the port promises a second."""
        since_s = min(self._leaving.values(), default=None)
        if since_s is not None and asyncio.get_running_loop().time() - since_s > HUNG_AFTER_S:
            raise EngineDeadError(f"the engine has not freed a cancelled slot for {HUNG_AFTER_S:.0f} s: it hangs")

    # -- ends ------------------------------------------------------------------------------------------------

    def obey(self, stop: Stop) -> None:
        """The owner wants these claims to end: superseded, void, cancelled, cut."""
        for generation in list(self._held.values()):
            if generation.job.response_id == stop.response_id and stop.claim in (None, generation.claim):
                log.info("%s: stops claim %s: %s", stop.response_id, generation.claim, stop.reason or "told to")
                self._abandon(generation, stop.reason or _STOPPED)

    async def drain(self, timeout_s: float) -> None:
        """Hand every generation back to its owner: shutdown.

        It is announced first, while the generations go on: an owner that took the last heartbeat at its word would
        send what is released right back. Ends when every claim is settled and every release stands in the log, so
        that successors start before the group rebalances: nobody's mail is read in the meantime.
        """
        self._draining = True
        if not await self._heart.announce(timeout_s, state="draining"):
            log.warning("the heartbeat that announces the end was not sent within %.1f s", timeout_s)
        for generation in list(self._held.values()):
            self._release(generation, "the worker shuts down", "draining")
        await asyncio.gather(*self._tasks)
        if self._parting:
            await asyncio.wait(self._parting)

    def _release(self, generation: Generation, reason: str, error_type: str, *, full: bool = False) -> None:
        """`error_type` is what trace and log say: the reason may quote the prompt."""
        if generation.claim in self._held:
            span = about(generation.span)
            log.warning("%s: releases its claim: %s", generation.job.response_id, error_type, extra=span)
            self._release_record(generation.job, generation.claim, reason, full=full)
            fail(generation.span, error_type)
            self._abandon(generation, _RELEASED, error_type)

    def _release_record(self, job: Job, claim: str, reason: str, *, full: bool = False) -> None:
        record = Released(
            response_id=job.response_id, claim=claim, attempt=job.attempt, worker=self._id, reason=reason, full=full
        )
        sent = self._send(record)
        self._parting.add(sent)
        sent.add_done_callback(self._parting.discard)
        sent.add_done_callback(_ignore_loss)

    def _abandon(self, generation: Generation, outcome: str, error_type: str = "") -> None:
        """Give the claim up."""
        self._leave(generation)
        self._let_go(generation, outcome, error_type)

    def _leave(self, generation: Generation) -> None:
        """Nothing more is wanted of the engine. If it runs the claim, its slot is free once the engine says so."""
        if generation.running and self._engine.alive:
            self._leaving[generation.claim] = asyncio.get_running_loop().time()
            self._engine.cancel(generation.claim)
        generation.running = False

    def _let_go(self, generation: Generation, outcome: str, error_type: str = "") -> None:
        if self._held.pop(generation.claim, None) is None:
            return
        self._meter.ended(
            generation.timing,
            _counted_as(outcome),
            model=self._engine.info.id,
            error_type=error_type,
            span=generation.span.get_span_context(),
            response_id=generation.job.response_id,
        )
        _describe(generation, outcome, self._engine.info.id)
        generation.span.end()
        self._tell()

    def _free_slots(self) -> int:
        """A dead engine offers nothing: what it released would come right back and lose an attempt each time."""
        slots = self._engine.info.slots
        leaving = sum(claim not in self._held for claim in self._leaving)
        return slots - len(self._held) - leaving if self._engine.alive else 0

    def _tell(self) -> None:
        slots = self._engine.info.slots
        self._heart.update(slots_total=slots, slots_free=max(0, self._free_slots()), claims=list(self._held))

    async def on_assigned(self, mailboxes: Iterable[int]) -> None:
        """The group gave us these mailboxes."""
        self._heart.update(partitions=sorted(mailboxes))

    async def on_revoked(self, _: Iterable[int]) -> None:
        """A rebalance: where mail would reach us is not known before its end."""
        self._heart.update(partitions=[])


def _counted_as(outcome: str) -> ClaimOutcome:
    """What the owner wants to end has a reason in the owner's words; they all come to the same."""
    if outcome in get_args(Ended):
        return "finished"
    known: dict[str, ClaimOutcome] = {_RELEASED: _RELEASED, _SUPERSEDED: _SUPERSEDED}
    return known.get(outcome, _STOPPED)


def _describe(generation: Generation, outcome: str, model: str) -> None:
    """How an attempt ended. Usage stands on one attempt of a response at most: UIs add it up over a trace."""
    generation.span.set_attributes(
        {names.OUTCOME: outcome, names.RESPONSE_MODEL: model, names.POSITION: generation.output_tokens}
    )
    if outcome in get_args(Ended):
        generation.span.set_attribute(names.RESPONSE_FINISH_REASONS, [outcome])
    if outcome not in (_RELEASED, _SUPERSEDED):
        generation.span.set_attributes(
            {
                names.USAGE_INPUT_TOKENS: generation.prompt_tokens,
                names.USAGE_CACHED_TOKENS: generation.cached_tokens,
                names.USAGE_OUTPUT_TOKENS: generation.output_tokens,
            }
        )


def _ignore_loss(done: "asyncio.Future[Appended]") -> None:
    """A lost `released` costs only time: the heartbeats no longer name the claim, so the owner's watch sees it."""
    error = error_of(done)
    if error is not None and not isinstance(error, AppendError):
        raise error
