"""The fold of one partition of the ledger: who is admitted, decided by the order of its records. Pure.

Every gateway folds the same records and comes to the same decisions; a gateway acts on the decision about its own
charge once it has read that charge. So nothing is admitted above a limit, however many gateways there are, and
whichever of them is slow: who has not read its charge yet, waits.

Rules:

1. A charge counts once, however often it is appended within 60 seconds: a late copy is no second one. Time is the
   records' and never goes back: the embedded broker keeps the producers' times.
2. An idempotency key stands for the responses of the first charge that was granted with it, for `keep_ms`, until an
   `outcome` says that nothing became of them, or a charge replaces them. Who comes with the key meanwhile is told
   them, or, having asked for something else, that the key is taken. Neither counts towards a limit.
3. A charge is granted if in the 60 seconds up to it, it included, no more requests and tokens are granted than the
   limits that it names. What is refused does not count.
4. A settlement lowers what a charge holds.
5. Whenever the time passes a multiple of RESYNC_MS, all that was asked for in the 60 seconds before counts, granted or
   not. By rule 3 a decision depends on those before it, without end; here that chain is cut, so that a gateway that
   reads the log from somewhere on comes to what the others know. What it costs is at most a minute of what was refused
   by the log itself, which is little: a gateway that knows of a full window refuses without asking the log.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

from services.gateway.ledger.limits import Limits
from services.gateway.ledger.window import WINDOW_MS, Entry, Shortage, Standing, Window
from shared.records import Charge, Outcome, Settlement

RESYNC_MS = 10 * WINDOW_MS
SYNC_SPAN_MS = RESYNC_MS + WINDOW_MS
"""A fold that has read so much of the log, and before that as much as keys are kept, knows what every other knows."""
MAX_KEYS = 100_000
"""Idempotency keys that a partition remembers; beyond, the oldest are forgotten."""

Bucket = tuple[str, str]
KeyId = tuple[str, str]


@dataclass(slots=True, eq=False)
class Holder:
    """The responses that an idempotency key stands for. `accepted` None: nobody knows yet."""

    responses: tuple[str, ...]
    fingerprint: str | None
    gateway: str
    expires_ms: int
    accepted: bool | None = None

    @property
    def first(self) -> str:
        """The request's first response, by which ledger records name it."""
        return self.responses[0]


@dataclass(frozen=True, slots=True)
class Granted:
    """The request is admitted."""


@dataclass(frozen=True, slots=True)
class Limited:
    """The request does not fit a limit."""

    shortage: Shortage


@dataclass(frozen=True, slots=True)
class Repeated:
    """The key is known and the same was asked for: these are the responses."""

    holder: Holder


@dataclass(frozen=True, slots=True)
class Conflict:
    """The key is known, and something else was asked for with it."""


Decision = Granted | Limited | Repeated | Conflict


@dataclass(slots=True)
class LedgerFold:
    """What a prefix of one partition of the ledger says. `now_ms` is the time of its last record."""

    now_ms: int = 0
    _windows: dict[Bucket, Window] = field(default_factory=dict)
    _entries: "OrderedDict[str, tuple[Bucket, Entry]]" = field(default_factory=OrderedDict)
    _holders: "OrderedDict[KeyId, Holder]" = field(default_factory=OrderedDict)

    def apply(self, record: Charge | Settlement | Outcome, timestamp_ms: int) -> Decision | None:
        """Fold the next record in; the decision about a charge, None about what decides nothing."""
        self._advance(max(self.now_ms, timestamp_ms))
        match record:
            case Charge():
                return self._charge(record)
            case Settlement():
                self._settle(record)
            case Outcome():
                self._conclude(record)
        return None

    def foresee(self, charge: Charge, now_ms: int) -> Decision:
        """What would be decided about a charge that came next, at `now_ms`; nothing is changed."""
        decided = self._decided_by_key(charge, now_ms)
        if decided is not None:
            return decided
        window = self._windows.get((charge.tenant, charge.tier), _EMPTY)
        shortage = window.shortage(_limits(charge), max(0, charge.tokens), now_ms)
        return Granted() if shortage is None else Limited(shortage)

    def standing(self, tenant: str, tier: str, limits: Limits, now_ms: int) -> Standing:
        """How a tenant stands at `now_ms`."""
        return self._windows.get((tenant, tier), _EMPTY).standing(limits, now_ms)

    def holder(self, tenant: str, key: str) -> Holder | None:
        """What an idempotency key stands for, as of the last record."""
        return self._holders.get((tenant, key))

    @property
    def size(self) -> int:
        """How many charges and keys are remembered."""
        return len(self._entries) + len(self._holders)

    def _charge(self, charge: Charge) -> Decision | None:
        if charge.response_id in self._entries:
            return None
        decision = self.foresee(charge, self.now_ms)
        if isinstance(decision, Granted) or _may_fit_later(decision):
            self._enter(charge, granted=isinstance(decision, Granted))
        if isinstance(decision, Granted) and charge.idempotency_key is not None:
            self._hold(charge, charge.idempotency_key)
        return decision

    def _decided_by_key(self, charge: Charge, now_ms: int) -> Decision | None:
        holder = self._holders.get((charge.tenant, charge.idempotency_key or ""))
        if holder is None or now_ms >= holder.expires_ms or charge.replaces == holder.first:
            return None
        return Repeated(holder) if charge.fingerprint == holder.fingerprint else Conflict()

    def _enter(self, charge: Charge, *, granted: bool) -> None:
        bucket = (charge.tenant, charge.tier)
        window = self._windows.setdefault(bucket, Window())
        entry = Entry(self.now_ms, max(0, charge.tokens))
        window.add(entry)
        if granted:
            window.grant(entry)
        self._entries[charge.response_id] = bucket, entry

    def _hold(self, charge: Charge, key: str) -> None:
        responses = (charge.response_id, *charge.further)
        replaced = self._holders.get((charge.tenant, key))
        if replaced is not None and replaced.accepted is None:
            replaced.accepted = False
        self._holders[charge.tenant, key] = Holder(
            responses, charge.fingerprint, charge.gateway, self.now_ms + max(0, charge.keep_ms)
        )
        self._holders.move_to_end((charge.tenant, key))
        if len(self._holders) > MAX_KEYS:
            self._holders.popitem(last=False)

    def _settle(self, record: Settlement) -> None:
        found = self._entries.get(record.response_id)
        if found is not None:
            bucket, entry = found
            self._windows[bucket].settle(entry, record.tokens)

    def _conclude(self, record: Outcome) -> None:
        key = (record.tenant, record.idempotency_key)
        holder = self._holders.get(key)
        if holder is None or holder.first != record.response_id:
            return
        if holder.accepted is None:
            holder.accepted = record.accepted
        if not holder.accepted:
            del self._holders[key]

    # -- time ----------------------------------------------------------------------------------------------------

    def _advance(self, now_ms: int) -> None:
        boundary_ms = now_ms - now_ms % RESYNC_MS
        if self.now_ms < boundary_ms:
            first_ms = self.now_ms - self.now_ms % RESYNC_MS + RESYNC_MS
            self._expire(first_ms)
            self._count_all()
        self.now_ms = now_ms
        self._expire(now_ms)

    def _expire(self, now_ms: int) -> None:
        while self._entries:
            response_id, (bucket, entry) = next(iter(self._entries.items()))
            if now_ms - entry.at_ms < WINDOW_MS:
                break
            del self._entries[response_id]
            window = self._windows[bucket]
            window.forget()
            if not window.entries:
                del self._windows[bucket]
        while self._holders and now_ms >= next(iter(self._holders.values())).expires_ms:
            self._holders.popitem(last=False)

    def _count_all(self) -> None:
        for window in self._windows.values():
            for entry in window.entries:
                window.grant(entry)


_EMPTY = Window()


def _may_fit_later(decision: Decision) -> bool:
    """What asks for more than the limit never counts, by rule 5 neither: that would close the window for a minute."""
    return isinstance(decision, Limited) and decision.shortage.wait_ms is not None


def _limits(charge: Charge) -> Limits:
    return Limits(charge.requests_per_minute, charge.tokens_per_minute)
