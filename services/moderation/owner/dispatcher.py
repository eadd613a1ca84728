"""Sending jobs: who waits, who goes where, who has been tried often enough (DESIGN 4, 5.3 and 5.7)."""

import asyncio
import logging
import random

from services.moderation.meter import ModerationMeter
from services.moderation.owner.appends import succeeded
from services.moderation.owner.dispatch import Slots, choose_worker, mailbox_of
from services.moderation.owner.outbox import Outbox
from services.moderation.owner.response import Owned
from services.moderation.owner.spans import attempt_span, note_generation_takeover
from services.moderation.owner.watch import Reason, WatchLimits, needs_attempt
from shared.heartbeats import Cluster, Member
from shared.records import Cut, Dispatched, Job
from shared.telemetry import inject
from shared.telemetry.logs import about
from shared.topics import Service

log = logging.getLogger(__name__)


class Dispatcher:
    """Starts attempts. Jobs without a slot wait here, by priority, then by age."""

    def __init__(
        self,
        outbox: Outbox,
        cluster: Cluster,
        limits: WatchLimits,
        max_waiting: int,
        meter: ModerationMeter | None = None,
    ) -> None:
        self._outbox = outbox
        self._meter = meter or ModerationMeter()
        self._cluster = cluster
        self._limits = limits
        self._max_waiting = max_waiting
        self._slots = Slots()
        self._rng = random.Random()
        self._waiting: dict[str, Owned] = {}

    @property
    def waiting(self) -> int:
        """Accepted responses that have no worker yet."""
        return len(self._waiting)

    @property
    def overloaded(self) -> bool:
        """As many jobs wait as may, those that a free slot takes at once not counted; 0 means no bound."""
        if not 0 < self._max_waiting <= len(self._waiting):
            return False
        workers, now_ms = self._cluster.alive(Service.INFERENCE, ready=True), self._cluster.now_ms
        return len(self._waiting) >= self._max_waiting + sum(max(0, self._slots.free(w, now_ms)) for w in workers)

    def admit(self, owned: Owned) -> None:
        """An accepted response waits for its first attempt, which `dispatch_where_needed` starts."""
        self._waiting[owned.id] = owned

    def forget(self, owned: Owned) -> None:
        """The response ended or is someone else's now."""
        self._waiting.pop(owned.id, None)

    def claimed(self, owned: Owned) -> None:
        """A worker took the job at `owned.times.claimed_ms`: its next heartbeat counts the slot."""
        if owned.fold.owner is not None:
            self._slots.claimed(owned.fold.owner.worker, owned.id, owned.times.claimed_ms)

    def dispatch_where_needed(self, responses: list[Owned]) -> None:
        """Start an attempt for each response that needs one, while workers have free slots."""
        for owned in responses:
            if owned.accepted and not owned.closed and not owned.ending and owned.fold.decision is None:
                reason = needs_attempt(owned.fold, owned.times, self._cluster, self._limits)
                if reason is not None:
                    self._consider(owned, reason)
        self._dispatch_waiting()

    def _dispatch_waiting(self) -> None:
        """By priority, then by age; a model without free slots holds up no other model."""
        full: set[str] = set()
        for owned in sorted(self._waiting.values(), key=lambda r: (-r.requested.priority, r.requested.created_ms)):
            model = owned.requested.spec.model
            if owned.closed or owned.ending or owned.fold.decision is not None:
                self.forget(owned)
            elif model not in full and not self._dispatch(owned):
                full.add(model)

    def _consider(self, owned: Owned, reason: Reason) -> None:
        if owned.id in self._waiting:
            return
        if reason is not Reason.FIRST:
            level = logging.INFO if reason is Reason.RELEASED else logging.WARNING
            said = "%s: attempt %d gets a successor: %s"
            log.log(level, said, owned.id, owned.times.attempt, reason.value, extra=about(owned.span))
            note_generation_takeover(owned, reason)
        if owned.fold.exhausted:
            self._give_up(owned, reason)
            return
        if reason is not Reason.FIRST:
            self._meter.attempt_failed(reason.name.lower())
        self._waiting[owned.id] = owned

    def _give_up(self, owned: Owned, reason: Reason) -> None:
        """The cut follows its dead letter: if that is lost, whoever takes over finds no cut and gives up once more."""
        owned.ending = True
        message = f"The response could not be generated: {owned.times.attempt} attempts failed ({reason.value})."
        cause = owned.fold.owner.reason if owned.fold.owner is not None else ""
        letter = self._outbox.put_job_aside(owned, self._job(owned, owned.times.attempt), f"{message} {cause}".rstrip())
        letter.add_done_callback(lambda done: self._cut_after(done, owned, message))

    def _cut_after(self, letter: "asyncio.Future[bool]", owned: Owned, message: str) -> None:
        if succeeded(letter):
            self._outbox.append(owned, Cut(response_id=owned.id, reason="failed", message=message))

    def _dispatch(self, owned: Owned) -> bool:
        workers = self._cluster.alive(Service.INFERENCE, ready=True)
        spec, now_ms = owned.requested.spec, self._cluster.now_ms
        worker = choose_worker(workers, self._slots, now_ms, spec.model, owned.requested.affinity_key, self._rng)
        if worker is None:
            return False
        self.forget(owned)
        self._send(owned, worker, max(owned.times.attempt, owned.fold.attempt) + 1)
        return True

    def _send(self, owned: Owned, worker: Member, attempt: int) -> None:
        now_ms = self._cluster.now_ms
        mailbox = mailbox_of(worker, owned.id)
        owned.times.attempt = attempt
        owned.times.worker = worker.beat.id
        owned.times.dispatched_ms = now_ms
        self._slots.reserve(worker.beat.id, owned.id, now_ms + self._limits.claim_timeout_ms)
        dispatched = Dispatched(response_id=owned.id, attempt=attempt, worker=worker.beat.id, mailbox=mailbox)
        with attempt_span(owned, attempt, mailbox) as span:
            self._outbox.append(owned, dispatched, inject(span))
            self._outbox.job(owned, self._job(owned, attempt), mailbox, inject(span))

    def _job(self, owned: Owned, attempt: int) -> Job:
        requested = owned.requested
        return Job(
            response_id=owned.id,
            attempt=attempt,
            prompt=requested.prompt(),
            sampling=requested.spec.sampling,
            deadline_ms=requested.deadline_ms,
            model=requested.spec.model,
            journal_offset=owned.offset,
        )
