"""The owner of a set of partitions: folds the journal, screens, publishes, dispatches, watches (DESIGN 4 to 6).

It holds nothing that it could not rebuild: it commits the offset of the oldest unended response's `requested`,
and a successor folds the journal again from there. One coroutine at a time works on the state (`_lock`), and none that
does waits for a moderation backend: who is answered later is gone on with later (`on_judgements`).
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence

from services.moderation.meter import ModerationMeter
from services.moderation.owner.dispatcher import Dispatcher
from services.moderation.owner.gate import BEFORE_ANY_TEXT
from services.moderation.owner.outbox import Outbox
from services.moderation.owner.partition import Partition, first_epoch
from services.moderation.owner.response import Owned
from services.moderation.owner.screening import Screener
from services.moderation.owner.spans import note_decision
from services.moderation.policy import Policy
from services.moderation.settings import ModerationSettings
from shared.errors import LogError, MalformedRecordError, RecordError
from shared.folds import Claim, Effect, EventFold, JournalFold
from shared.heartbeats import Cluster
from shared.log import RawRecord, Replayer, decode_of_response
from shared.records import (
    Accepted,
    Cancel,
    Claimed,
    Cut,
    Delete,
    Deleted,
    Dispatched,
    Journal,
    Requested,
    Screening,
    Tokens,
)
from shared.records.codec import Envelope
from shared.telemetry.logs import about
from shared.topics import EVENTS, JOURNAL

log = logging.getLogger(__name__)

_OVERDUE_MS = 30_000
"""How long behind its deadline a response waits for what backends say of text that was said in time: a slow one is
waited for, one that hangs is not (DESIGN 8.3)."""


class Owner:
    """Answers for every response of its partitions. All collaborators come in as arguments."""

    def __init__(
        self,
        settings: ModerationSettings,
        service_id: str,
        screener: Screener,
        dispatcher: Dispatcher,
        outbox: Outbox,
        replayer: Replayer,
        cluster: Cluster,
        meter: ModerationMeter | None = None,
    ) -> None:
        self._meter = meter or ModerationMeter()
        self._service_id = service_id
        self._screener = screener
        self._dispatcher = dispatcher
        self._outbox = outbox
        self._replayer = replayer
        self._cluster = cluster
        self._grace_ms = int(settings.foreground_grace_s * 1000)
        self._partitions: dict[int, Partition] = {}
        self._lock = asyncio.Lock()

    @property
    def live_partitions(self) -> list[int]:
        """The partitions that we act on."""
        return sorted(p.number for p in list(self._partitions.values()) if p.live)  # also read by other threads

    @property
    def open_responses(self) -> int:
        """Responses of these partitions whose end is not acknowledged yet."""
        return sum(len(p.responses) for p in list(self._partitions.values()) if p.live)

    @property
    def waiting(self) -> int:
        """Accepted responses that have no worker yet."""
        return self._dispatcher.waiting

    @property
    def policies(self) -> list[Policy]:
        """Those by which responses are judged now, each once."""
        responses = (owned for p in self._partitions.values() for owned in p.responses.values())
        found = [owned.judged_by.policy for owned in responses if owned.judged_by is not None]
        return list({id(policy): policy for policy in found}.values())

    @property
    def judging(self) -> int:
        """Responses that wait for the answer of a moderation backend."""
        return sum(owned.judging for p in self._partitions.values() for owned in p.responses.values())

    # -- partitions come and go ------------------------------------------------------------------------------

    async def take_over(self, positions: Mapping[int, tuple[int, int]], generation: int) -> None:
        """Own these partitions, which the group gave us in `generation`: number → (offset of the first record to come,
        end of the journal now)."""
        async with self._lock:
            for number, (start, end) in positions.items():
                self._begin(Partition(number, first_epoch(generation), live_at=end, next_offset=start))
            await self._go_live_where_caught_up()

    async def take_over_anew(self, number: int, start: int, end: int) -> None:
        """Own a partition again where an append failed, in a higher epoch; nothing happens if it is no longer ours."""
        async with self._lock:
            partition = self._partitions.get(number)
            if partition is not None:
                self._begin(Partition(number, partition.epoch + 1, live_at=end, next_offset=start))
                await self._go_live_where_caught_up()

    def _begin(self, partition: Partition) -> None:
        number, start, end = partition.number, partition.next_offset, partition.live_at
        log.debug("takes partition %d over in epoch %d: folds offsets %d to %d", number, partition.epoch, start, end)
        self._drop(number)
        self._partitions[number] = partition
        self._outbox.broken.discard(number)

    async def drop(self, numbers: Iterable[int]) -> None:
        """These partitions are someone else's now: nothing more is published there."""
        async with self._lock:
            for number in numbers:
                self._drop(number)

    def _drop(self, number: int) -> None:
        partition = self._partitions.pop(number, None)
        for owned in partition.responses.values() if partition is not None else ():
            self._let_go(owned)

    def _let_go(self, owned: Owned) -> None:
        self._dispatcher.forget(owned)
        self._screener.let_go(owned)

    def low_watermarks(self) -> dict[int, int]:
        """What to commit: partition → offset, where it moved since the last `committed()`."""
        return {
            p.number: p.low_watermark
            for p in self._partitions.values()
            if self._acts_on(p) and p.low_watermark != p.committed
        }

    async def restart_offset(self, number: int) -> int | None:
        """Where to fold the partition again from, after an append failed; None if it is no longer ours."""
        async with self._lock:
            partition = self._partitions.get(number)
            return partition.low_watermark if partition is not None else None

    def committed(self, number: int, offset: int) -> None:
        """The watermark of the partition was committed at `offset`."""
        if number in self._partitions:
            self._partitions[number].committed = offset

    def _acts_on(self, partition: Partition) -> bool:
        """Where an append failed, nobody knows what is public: we only fold until the partition is taken over anew."""
        return partition.live and partition.number not in self._outbox.broken

    async def _go_live_where_caught_up(self) -> None:
        if not self._cluster.now_ms:
            return  # nobody was heard yet: without a clock, the first heartbeat would look like ages of silence
        for partition in list(self._partitions.values()):
            waits = not partition.live and partition.number not in self._outbox.broken
            if waits and partition.next_offset >= partition.live_at:
                try:
                    await self._go_live(partition)
                except LogError as error:
                    log.error("cannot go live on partition %d yet: %s", partition.number, error)
                    self._outbox.broken.add(partition.number)

    async def _go_live(self, partition: Partition) -> None:
        await self._go_on_with(partition, list(partition.responses.values()))
        if partition.responses and not partition.healed:
            self._meter.partition_taken_over()
        partition.live_since_ms = self._cluster.now_ms
        log.info("owns partition %d with %d active responses", partition.number, len(partition.responses))
        await self._advance(list(partition.responses.values()))

    async def _go_on_with(self, partition: Partition, responses: Sequence[Owned]) -> None:
        """What other owners made public stands. Raises LogError."""
        if responses:
            events = await self._fence(partition, responses)
            for owned in responses:
                await self._resume(partition, owned, events[owned.id])

    async def _fence(self, partition: Partition, responses: Sequence[Owned]) -> dict[str, EventFold]:
        """Rule 6.1: mark a new epoch for each response, wait for the ack, read up to the mark."""
        events = await self._read_events(partition, responses, None)
        marks = [
            self._outbox.publish(owned, Screening(response_id=owned.id, epoch=owned.epoch, owner=self._service_id))
            for owned in responses
            if events[owned.id].terminal is None
        ]
        if not marks:
            return events
        acks = await asyncio.gather(*marks)
        return await self._read_events(partition, responses, max(ack.offset for ack in acks))

    async def _read_events(
        self, partition: Partition, responses: Sequence[Owned], until: int | None
    ) -> dict[str, EventFold]:
        folds = {owned.id: EventFold() for owned in responses}
        accepted_in: dict[str, Mapping[str, str]] = {}
        since_ms = min(owned.requested.created_ms for owned in responses)
        found = await self._replayer.read(EVENTS, partition.number, folds, since_ms=since_ms, until=until)
        for envelope in found.records:
            folds[envelope.record.response_id].apply(envelope.record)
            if isinstance(envelope.record, Accepted):
                accepted_in[envelope.record.response_id] = envelope.trace
        for owned in responses:
            owned.accepted_trace = accepted_in.get(owned.id, {})
        return folds

    async def _resume(self, partition: Partition, owned: Owned, events: EventFold) -> None:
        if events.terminal is not None:
            partition.forget(owned)
            return
        if events.epoch > partition.epoch:
            span = about(owned.span)
            log.warning("%s: a later owner goes on with it (epoch %d)", owned.id, events.epoch, extra=span)
            partition.forget(owned)
            return
        owned.times.attempt = owned.fold.attempt
        # How long others were silent while nobody watched is not known: every worker gets its full time again.
        now_ms = self._cluster.now_ms
        owned.times.dispatched_ms = owned.times.claimed_ms = owned.times.tokens_ms = now_ms
        if events.accepted is not None:
            await self._screener.resume(owned, events)

    # -- the journal -----------------------------------------------------------------------------------------

    async def on_records(self, batch: Sequence[RawRecord]) -> None:
        """Fold a batch of the journal, then act on every response that it touched."""
        async with self._lock:
            touched: dict[str, Owned] = {}
            for record in batch:
                partition = self._partitions.get(record.partition)
                if partition is None or record.offset < partition.next_offset:
                    continue
                owned = self._fold(partition, record)
                partition.next_offset = record.offset + 1
                if owned is not None and self._acts_on(partition):
                    touched[owned.id] = owned
            await self._go_live_where_caught_up()
            await self._look_late_ones_up(touched)
            await self._advance(list(touched.values()))

    async def _look_late_ones_up(self, touched: dict[str, Owned]) -> None:
        """A request from before our time may be a late second copy of one that another owner ended."""
        if not any(owned.late for owned in touched.values()):
            return  # nearly always, and asked for every batch
        for partition in list(self._partitions.values()):
            late = [owned for owned in touched.values() if owned.partition == partition.number and owned.late]
            if not late or not self._acts_on(partition):
                continue
            try:
                await self._go_on_with(partition, late)
            except LogError as error:
                log.error("cannot look up what partition %d had before: %s", partition.number, error)
                self._outbox.broken.add(partition.number)
            for owned in late:
                owned.late = False
                if not self._acts_on(partition) or owned.id not in partition.responses:
                    del touched[owned.id]

    def _fold(self, partition: Partition, record: RawRecord) -> Owned | None:
        try:
            envelope = _decode(record)
        except RecordError as error:
            log.error("journal %d/%d goes to the dead letters: %s", record.partition, record.offset, error)
            partition.answers[record.offset] = self._outbox.put_aside(record, error)
            return None
        if isinstance(envelope.record, Delete):
            partition.erasures[record.offset] = envelope.record
        if isinstance(envelope.record, Requested) and self._acts_on(partition):
            self._release_again(partition, envelope.record, record.offset)
        owned = partition.responses.get(envelope.record.response_id) or self._meet(partition, envelope)
        if owned is None:
            return None
        before = owned.fold.owner
        effect = owned.fold.apply(envelope.record)
        self._note(owned, envelope, effect)
        if self._acts_on(partition):
            self._stop_superseded(owned, envelope.record, effect, before)
        return owned

    def _release_again(self, partition: Partition, requested: Requested, offset: int) -> None:
        """What came to nothing was delivered twice: history took the conversation's lock for it once more."""
        if partition.came_to_nothing(requested.response_id):
            partition.answers.update((offset, told) for told in self._outbox.release(requested))

    def _meet(self, partition: Partition, envelope: Envelope[Journal]) -> Owned | None:
        body = envelope.record
        if isinstance(body, Requested) and not partition.has_ended(body.response_id):
            owned = Owned(body, envelope.offset, envelope.trace, JournalFold(), partition.epoch)
            owned.late = body.created_ms < (partition.live_since_ms or 0)
            partition.responses[body.response_id] = owned
            return owned
        if isinstance(body, Claimed) and partition.live:
            self._outbox.stop(partition.number, body.response_id, body.claim, body.mailbox, "ended")
        return None

    def _note(self, owned: Owned, envelope: Envelope[Journal], effect: Effect) -> None:
        body, heard_ms = envelope.record, max(envelope.timestamp_ms, self._cluster.now_ms)
        if effect is Effect.CLAIMED and owned.fold.owner is not None:
            owned.times.claimed_ms = heard_ms
            owned.times.attempt = max(owned.times.attempt, owned.fold.owner.attempt)
            self._dispatcher.claimed(owned)
        elif isinstance(body, Dispatched) and body.attempt > owned.times.attempt:
            # Another owner sent this job: it deserves its time to be claimed.
            owned.times.attempt, owned.times.worker = body.attempt, body.worker
            owned.times.dispatched_ms, owned.attempt_trace = heard_ms, envelope.trace
            self._dispatcher.forget(owned)
        elif isinstance(body, Tokens) and effect in (Effect.ADVANCED, Effect.DECIDED):
            owned.times.tokens_ms = heard_ms
            owned.arrivals.came(body.pieces, envelope.timestamp_ms)
        if effect is Effect.DECIDED:
            note_decision(owned, envelope)
        elif effect is Effect.VOIDED:
            # Nothing is lost by it: the next attempt goes on where the log does.
            said = "%s: the claim is void: tokens before its latest are not in the log, as when a broker was lost: %s"
            log.warning(said, owned.id, owned.fold.owner, extra=about(owned.span))

    def _stop_superseded(self, owned: Owned, body: Journal, effect: Effect, before: Claim | None) -> None:
        """Rule 5.5: every superseded, void or ended claim that shows itself is told to stop."""
        if effect is Effect.CLAIMED and before is not None:
            self._outbox.stop(owned.partition, owned.id, before.id, before.mailbox, "superseded")
        if not isinstance(body, Claimed | Tokens) or effect not in (Effect.IGNORED, Effect.VOIDED):
            return
        owner, claim = owned.fold.owner, owned.fold.claims.get(body.claim)
        repeats_the_owner = owner is not None and body.claim == owner.id and owner.live and not owned.closed
        mailbox = body.mailbox if isinstance(body, Claimed) else claim.mailbox if claim is not None else None
        if mailbox is not None and not repeats_the_owner:
            self._outbox.stop(owned.partition, owned.id, body.claim, mailbox, "superseded")

    # -- what backends answer --------------------------------------------------------------------------------

    async def follow_judgements(self) -> None:
        """Go on with responses as backends answer about them, until cancelled."""
        while True:
            await self._screener.ready.wait()
            await self.on_judgements()

    async def on_judgements(self) -> bool:
        """Act on every response about which a backend has answered and that is still ours; whether there was one."""
        async with self._lock:
            answered = [owned for owned in self._screener.ready.take() if self._holds(owned)]
            await self._advance(answered)
            return bool(answered)

    def _holds(self, owned: Owned) -> bool:
        partition = self._partitions.get(owned.partition)
        return partition is not None and partition.responses.get(owned.id) is owned and self._acts_on(partition)

    # -- acting ----------------------------------------------------------------------------------------------

    async def tick(self) -> list[int]:
        """Judge what time alone decides. Returns the partitions that must be taken over anew."""
        async with self._lock:
            self._cluster.forget_silent()
            await self._go_live_where_caught_up()
            for partition in self._partitions.values():
                if self._acts_on(partition):
                    partition.forget_closed()
                    self._judge(list(partition.responses.values()))
            return sorted(self._outbox.broken.intersection(self._partitions))

    def _judge(self, responses: list[Owned]) -> None:
        for owned in responses:
            if owned.closed:
                continue
            if owned.fold.decision is not None:
                self._check_overdue(owned)
            elif not owned.ending:
                self._check_deadline(owned)
                self._check_followers(owned)
        self._dispatcher.dispatch_where_needed(responses)

    def _check_deadline(self, owned: Owned) -> None:
        requested = owned.requested
        if self._cluster.now_ms > requested.deadline_ms:
            owned.ending = True
            span_s = (requested.deadline_ms - requested.created_ms) / 1000
            message = f"The response did not finish within its deadline of {span_s:g} s."
            self._outbox.append(owned, Cut(response_id=owned.id, reason="deadline", message=message))

    def _check_overdue(self, owned: Owned) -> None:
        """Nobody waits for ever for the end of an accepted response."""
        now_ms = self._cluster.now_ms
        if not owned.accepted or now_ms <= owned.requested.deadline_ms:
            return
        if owned.overdue_since_ms is None:
            owned.overdue_since_ms = now_ms
        elif self._cluster.elapsed_ms(owned.overdue_since_ms) > _OVERDUE_MS:
            self._screener.give_up(owned)

    def _check_followers(self, owned: Owned) -> None:
        """A foreground response that nobody follows any more is cancelled after the grace."""
        if owned.requested.spec.background or any(map(self._cluster.is_alive, owned.fold.followers)):
            owned.lonely_since_ms = None
        elif owned.lonely_since_ms is None:
            owned.lonely_since_ms = self._cluster.now_ms
        elif self._cluster.elapsed_ms(owned.lonely_since_ms) > self._grace_ms and not owned.ending:
            owned.ending = True
            self._outbox.append(owned, Cancel(response_id=owned.id, reason="abandoned"))

    async def _advance(self, responses: list[Owned]) -> None:
        await self._screener.screen(responses)
        self._dispatcher.dispatch_where_needed(responses)
        self._erase()

    def _erase(self) -> None:
        """Act on what was folded of `delete`, behind the terminal event of the same batch.

        It asks nothing of our memory: the response may have ended ages ago. A `deleted` that is published twice, by
        us or by another owner, counts once.
        """
        for partition in self._partitions.values():
            if not partition.erasures or not self._acts_on(partition):
                continue
            for offset, delete in partition.erasures.items():
                owned = partition.responses.get(delete.response_id)
                if owned is not None and not owned.closed:
                    log.error("%s: is to be deleted before its end: ignored", owned.id)
                    continue
                deleted = Deleted(response_id=delete.response_id, epoch=partition.epoch, tenant=delete.tenant)
                if owned is not None and owned.events is not None:
                    partition.answers[offset] = owned.events.pass_through(deleted, BEFORE_ANY_TEXT)
                else:
                    partition.answers[offset] = self._outbox.erase(partition.number, deleted)
            partition.erasures.clear()


def _decode(record: RawRecord) -> Envelope[Journal]:
    """Raises RecordError, also where the id names another partition: nobody could publish for it from here."""
    envelope: Envelope[Journal]
    envelope, response_id = decode_of_response(JOURNAL, record)
    if response_id.partition != record.partition:
        raise MalformedRecordError(f"{response_id.text} belongs into partition {response_id.partition}")
    return envelope
