"""The ledger on the log: append a charge, read it back in its place, act on what the fold decides about it."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from services.gateway.auth import Caller
from services.gateway.errors import unavailable
from services.gateway.ledger.fold import (
    SYNC_SPAN_MS,
    Conflict,
    Decision,
    Granted,
    Holder,
    LedgerFold,
    Repeated,
)
from services.gateway.ledger.limits import Limits, RateLimits
from services.gateway.ledger.window import Standing
from services.gateway.settings import GatewaySettings
from shared.errors import AppendError, RecordError
from shared.futures import error_of
from shared.ids import now_ms
from shared.log import Appended, LogWriter, RawRecord, decode, failing_late
from shared.log.writer import partition_of_key
from shared.records import Charge, Outcome, Settlement
from shared.telemetry import inject
from shared.topics import LEDGER

log = logging.getLogger(__name__)

_FREE = Granted()


class TailPort(Protocol):
    """What the ledger needs of `shared.log.Tail`."""

    async def start_since(self, partitions: Iterable[int], unix_ms: int) -> dict[int, int]: ...
    def batches(self) -> AsyncIterator[list[RawRecord]]: ...
    async def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Repeatable:
    """A client's idempotency key, as a digest, with a digest of what it asked for."""

    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Ask:
    """A request that wants to be admitted: the ids of its choices' responses, and the most tokens it can use."""

    caller: Caller
    responses: tuple[str, ...]
    tokens: int
    repeatable: Repeatable | None = None
    replaces: str | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a granted request owes the ledger: a word on its outcome, if it has a key, and on what it used."""

    charge: Charge
    ledger: "Ledger"

    def accepted(self) -> None:
        """The request's responses exist: its key stands for them."""
        self.ledger.conclude(self.charge, accepted=True)

    def came_to_nothing(self) -> None:
        """No response exists: the key is free again, and no tokens were used."""
        self.ledger.conclude(self.charge, accepted=False)
        self.settle(0)

    def settle(self, tokens: int) -> None:
        """The request used so many tokens."""
        if self.charge.tokens_per_minute is not None and tokens < self.charge.tokens:
            self.ledger.settle(self.charge, tokens)


class Ledger:
    """One gateway's view of the ledger. Who has neither limits nor a key never waits for the log."""

    def __init__(
        self,
        settings: GatewaySettings,
        gateway_id: str,
        writer: LogWriter,
        limits: RateLimits,
        tail: TailPort,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._gateway_id = gateway_id
        self._writer = writer
        self._limits = limits
        self._tail = tail
        self._clock = clock
        self._folds = {number: LedgerFold() for number in range(settings.partitions)}
        self._read_s: dict[int, float] = {}
        self._behind: dict[int, int] = {}
        self._caught_up = asyncio.Event()
        self._waiting: dict[str, asyncio.Future[Decision]] = {}
        self._curious: dict[str, set[asyncio.Future[None]]] = {}

    # -- following the log ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect where the log holds what can still matter. Raises BrokerUnavailableError."""
        span_ms = SYNC_SPAN_MS + self._keep_ms + int(self._settings.skew_margin_s * 1000)
        self._behind = await self._tail.start_since(self._folds, now_ms() - span_ms)
        self._check_caught_up()

    async def stop(self) -> None:
        """Disconnect."""
        await self._tail.stop()

    async def run(self) -> None:
        """Follow until cancelled."""
        async for batch in self._tail.batches():
            for record in batch:
                self._take(record)
            self._check_caught_up()

    async def caught_up(self) -> None:
        """Return once all is read that stood in the log at the start."""
        await self._caught_up.wait()

    def _check_caught_up(self) -> None:
        if not self._caught_up.is_set() and not any(self._behind.values()):
            self._caught_up.set()

    def _take(self, record: RawRecord) -> None:
        """Fold one record; what cannot be read decides nothing, at every gateway alike."""
        if record.offset + 1 >= self._behind.get(record.partition, 0):
            self._behind[record.partition] = 0
        try:
            entry = decode(LEDGER, record).record
        except RecordError as error:
            log.error("unreadable record of the ledger at %d/%d: %s", record.partition, record.offset, error)
            return
        decision = self._folds[record.partition].apply(entry, record.timestamp_ms)
        self._read_s[record.partition] = self._clock()
        if isinstance(entry, Charge) and decision is not None:
            self._decided(entry, decision)
        self._tell(entry)

    def _decided(self, charge: Charge, decision: Decision) -> None:
        waiting = self._waiting.get(charge.response_id)
        if waiting is not None and not waiting.done():
            waiting.set_result(decision)
        elif charge.gateway == self._gateway_id and self._caught_up.is_set() and isinstance(decision, Granted):
            Receipt(charge, self).came_to_nothing()  # whoever asked has given up by now

    def _tell(self, entry: Charge | Settlement | Outcome) -> None:
        """Wake those that wait for news of a response."""
        about = entry.replaces if isinstance(entry, Charge) else entry.response_id
        for waiter in self._curious.get(about or "", ()):
            if not waiter.done():
                waiter.set_result(None)

    # -- what a request meets ------------------------------------------------------------------------------------

    def known(self, caller: Caller, repeatable: Repeatable, replaces: str | None = None) -> Repeated | Conflict | None:
        """What the key stands for, other than `replaces`, as far as this gateway has read; None: nothing yet."""
        asked = Ask(caller, ("",), 0, repeatable, replaces)
        found = self._foresee(self._charge(asked))
        return found if isinstance(found, Repeated | Conflict) else None

    async def charge(self, ask: Ask) -> tuple[Decision, Receipt]:
        """Ask for admission: at once where there is nothing to keep, or where it is refused by what is known here.

        Raises ApiError 503 when the log does not decide within `ledger_timeout_s`.
        """
        charge = self._charge(ask)
        receipt = Receipt(charge, self)
        if ask.repeatable is None and not self._limits_of(ask.caller):
            return _FREE, receipt
        foreseen = self._foresee(charge)
        if not isinstance(foreseen, Granted):
            return foreseen, receipt
        return await self._decision(charge), receipt

    async def _decision(self, charge: Charge) -> Decision:
        future: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        self._waiting[charge.response_id] = future
        try:
            async with asyncio.timeout(self._settings.ledger_timeout_s):
                await self._writer.append(LEDGER, charge, trace=inject())
                return await future
        except BaseException as error:
            if future.done() and not future.cancelled() and isinstance(future.result(), Granted):
                Receipt(charge, self).came_to_nothing()  # decided in the moment in which we gave up
            if isinstance(error, TimeoutError | AppendError):
                raise unavailable("The message log does not decide about rate limits now. Try again.") from error
            raise
        finally:
            del self._waiting[charge.response_id]

    def _foresee(self, charge: Charge) -> Decision:
        partition = self._partition(charge.tenant)
        return self._folds[partition].foresee(charge, self._now_ms(partition))

    def charges_tokens(self, caller: Caller) -> bool:
        """Whether it matters how many tokens a request of the caller's can use."""
        return self._limits_of(caller).tokens is not None

    def standing(self, caller: Caller) -> Standing | None:
        """How the caller stands; None without limits."""
        limits = self._limits_of(caller)
        if not limits:
            return None
        partition = self._partition(caller.tenant)
        return self._folds[partition].standing(caller.tenant, caller.tier, limits, self._now_ms(partition))

    async def news(self, holder: Holder, timeout_s: float) -> None:
        """Return when the ledger says what became of the responses of a key, or they were replaced, or in time."""
        with self._curious_about(holder.first) as waiter:
            if holder.accepted is None:
                await asyncio.wait([waiter], timeout=timeout_s)

    @contextmanager
    def _curious_about(self, response_id: str) -> Iterator["asyncio.Future[None]"]:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = self._curious.setdefault(response_id, set())
        waiters.add(waiter)
        try:
            yield waiter
        finally:
            waiters.discard(waiter)
            if not waiters:
                self._curious.pop(response_id, None)

    # -- what becomes of it --------------------------------------------------------------------------------------

    def conclude(self, charge: Charge, *, accepted: bool) -> None:
        """Say what became of a request that has a key."""
        if charge.idempotency_key is not None:
            self._append(
                Outcome(
                    response_id=charge.response_id,
                    tenant=charge.tenant,
                    idempotency_key=charge.idempotency_key,
                    accepted=accepted,
                )
            )

    def settle(self, charge: Charge, tokens: int) -> None:
        """Give back what a request did not use."""
        self._append(Settlement(response_id=charge.response_id, tenant=charge.tenant, tier=charge.tier, tokens=tokens))

    def _append(self, record: Settlement | Outcome) -> None:
        failing_late(self._writer.enqueue, LEDGER, record).add_done_callback(lambda done: _report(record, done))

    # -- the charge ----------------------------------------------------------------------------------------------

    def _charge(self, ask: Ask) -> Charge:
        limits, repeatable = self._limits_of(ask.caller), ask.repeatable
        first, *further = ask.responses
        return Charge(
            response_id=first,
            further=further,
            tenant=ask.caller.tenant,
            tier=ask.caller.tier,
            tokens=ask.tokens,
            gateway=self._gateway_id,
            requests_per_minute=limits.requests,
            tokens_per_minute=limits.tokens,
            idempotency_key=repeatable.key if repeatable is not None else None,
            fingerprint=repeatable.fingerprint if repeatable is not None else None,
            keep_ms=self._keep_ms,
            replaces=ask.replaces,
        )

    @property
    def _keep_ms(self) -> int:
        return int(self._settings.idempotency_s * 1000)

    def _limits_of(self, caller: Caller) -> Limits:
        return self._limits.of(caller.tenant, caller.tier)

    def _partition(self, tenant: str) -> int:
        return partition_of_key(tenant, self._settings.partitions)

    def _now_ms(self, partition: int) -> int:
        """The log's time, to foresee by; a guess, for what counts is the time at which the broker puts the record.

        It has moved on since the last record, at least as much as our own clock. That record may have been read late:
        then the wall clock knows better. To be ahead is harmless: the log then refuses what it could have done without.
        """
        fold = self._folds[partition]
        since_s = self._clock() - self._read_s.get(partition, self._clock())
        return max(fold.now_ms + int(since_s * 1000), now_ms())


def _report(record: Settlement | Outcome, done: "asyncio.Future[Appended]") -> None:
    error = error_of(done)
    if error is not None:
        # A charge ends by itself after a minute, a key that nobody speaks for when its gateway is looked for.
        log.warning("%s of %s is lost: %s", type(record).__name__.lower(), record.response_id, error)
