"""The fold of the ledger, held against the definition of a limit written down a second time."""

import itertools
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.ledger.fold import (
    RESYNC_MS,
    SYNC_SPAN_MS,
    Conflict,
    Decision,
    Granted,
    LedgerFold,
    Limited,
    Repeated,
)
from services.gateway.ledger.limits import Limits
from services.gateway.ledger.window import WINDOW_MS
from shared.records import Charge, Outcome, Settlement

KEEP_MS = 5 * WINDOW_MS
_ids = itertools.count()


def charge(tokens: int = 1, requests: int | None = 3, limit: int | None = 100, **fields: object) -> Charge:
    defaults = {"response_id": f"resp_{next(_ids)}", "tenant": "acme", "tier": "default", "keep_ms": KEEP_MS}
    return Charge(tokens=tokens, requests_per_minute=requests, tokens_per_minute=limit, **{**defaults, **fields})  # type: ignore[arg-type]


@dataclass
class Asked:
    """What the definition keeps of a charge."""

    at_ms: int
    tokens: int
    granted: bool


class Definition:
    """Rules 1, 3, 4 and 5 of the fold without an idea of efficiency: all charges ever, looked at each time."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.asked: dict[str, Asked] = {}

    def apply(self, record: Charge | Settlement, timestamp_ms: int) -> bool | None:
        before_ms, self.now_ms = self.now_ms, max(self.now_ms, timestamp_ms)
        for boundary_ms in range(before_ms - before_ms % RESYNC_MS + RESYNC_MS, self.now_ms + 1, RESYNC_MS):
            for other in self.within(boundary_ms, only_granted=False):
                other.granted = True
        if isinstance(record, Settlement):
            found = self.asked.get(record.response_id)
            if found is not None:
                found.tokens = max(0, min(found.tokens, record.tokens))
            return None
        known = self.asked.get(record.response_id)
        if known is not None and known.at_ms > self.now_ms - WINDOW_MS:
            return None
        counted = self.within(self.now_ms)
        fits = record.requests_per_minute is None or len(counted) < record.requests_per_minute
        sum_tokens = sum(other.tokens for other in counted) + record.tokens
        fits &= record.tokens_per_minute is None or sum_tokens <= record.tokens_per_minute
        if fits or record.tokens_per_minute is None or record.tokens <= record.tokens_per_minute:
            self.asked[record.response_id] = Asked(self.now_ms, record.tokens, fits)
        return fits

    def within(self, now_ms: int, *, only_granted: bool = True) -> list[Asked]:
        """What was asked for in the 60 seconds up to `now_ms`."""
        return [
            other
            for other in self.asked.values()
            if now_ms - WINDOW_MS < other.at_ms <= now_ms and (other.granted or not only_granted)
        ]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["charge"] * 4 + ["settle", "again"]),
        st.integers(0, 60),  # tokens
        st.one_of(st.integers(-3000, 20_000), st.sampled_from([0, 1, WINDOW_MS - 1, WINDOW_MS, RESYNC_MS])),
        st.integers(0, 5),  # which of the last records a settlement or a late copy is about
    ),
    max_size=60,
)
LIMITS = st.tuples(st.one_of(st.none(), st.integers(1, 5)), st.one_of(st.none(), st.integers(1, 120)))


def history(steps: list[tuple[str, int, int, int]], limits: tuple[int | None, int | None]) -> list[tuple[object, int]]:
    """Records with timestamps: charges, settlements of them and late copies, on a clock that also goes back."""
    records: list[tuple[object, int]] = []
    charges: list[Charge] = []
    now_ms = 7 * RESYNC_MS - 2 * WINDOW_MS
    for what, tokens, step_ms, back in steps:
        now_ms = max(1, now_ms + step_ms)
        if what == "charge" or not charges:
            charges.append(charge(tokens, *limits))
            records.append((charges[-1], now_ms))
            continue
        about = charges[-1 - back % len(charges)]
        settlement = Settlement(response_id=about.response_id, tenant="acme", tier="default", tokens=tokens)
        records.append((about if what == "again" else settlement, now_ms))
    return records


@settings(max_examples=300)
@given(STEPS, LIMITS)
def test_it_decides_as_the_definition_does(
    steps: list[tuple[str, int, int, int]], limits: tuple[int | None, int | None]
) -> None:
    fold, definition = LedgerFold(), Definition()
    for record, at_ms in history(steps, limits):
        decision = fold.apply(record, at_ms)  # type: ignore[arg-type]
        expected = definition.apply(record, at_ms)  # type: ignore[arg-type]
        assert (None if decision is None else isinstance(decision, Granted)) == expected


@settings(max_examples=300)
@given(STEPS, LIMITS)
def test_no_sixty_seconds_hold_more_than_the_limits(
    steps: list[tuple[str, int, int, int]], limits: tuple[int | None, int | None]
) -> None:
    fold, held, now_ms = LedgerFold(), {}, 0
    requests, tokens = limits
    for record, at_ms in history(steps, limits):
        now_ms = max(now_ms, at_ms)
        decision = fold.apply(record, at_ms)  # type: ignore[arg-type]
        if isinstance(record, Charge) and isinstance(decision, Granted):
            held[record.response_id] = [now_ms, record.tokens]
        elif isinstance(record, Settlement) and record.response_id in held:
            held[record.response_id][1] = min(held[record.response_id][1], record.tokens)
        if isinstance(decision, Granted):
            span = [used for at, used in held.values() if now_ms - WINDOW_MS < at]
            assert requests is None or len(span) <= requests
            assert tokens is None or sum(span) <= tokens


@settings(max_examples=200)
@given(STEPS, LIMITS, st.integers(0, 59))
def test_who_reads_from_somewhere_on_comes_to_the_same(
    steps: list[tuple[str, int, int, int]], limits: tuple[int | None, int | None], start: int
) -> None:
    """From SYNC_SPAN_MS behind its first record on: earlier decisions of two folds may differ, later ones never."""
    records = history(steps, limits)
    whole, late, begun_ms, now_ms = LedgerFold(), LedgerFold(), None, 0
    for number, (record, at_ms) in enumerate(records):
        now_ms = max(now_ms, at_ms)
        decision = whole.apply(record, at_ms)  # type: ignore[arg-type]
        if number < start:
            continue
        begun_ms = now_ms if begun_ms is None else begun_ms
        other = late.apply(record, now_ms)  # type: ignore[arg-type]
        if now_ms - begun_ms >= SYNC_SPAN_MS:
            assert type(decision) is type(other)


def decide(fold: LedgerFold, record: Charge, at_ms: int) -> Decision:
    decision = fold.apply(record, at_ms)
    assert decision is not None
    return decision


def test_a_refusal_says_which_limit_and_when_there_is_room() -> None:
    fold = LedgerFold()
    for at_ms in (1000, 2000, 3000):
        assert decide(fold, charge(10), at_ms) == Granted()
    limited = decide(fold, charge(10), 4000)
    assert isinstance(limited, Limited)
    assert (limited.shortage.kind, limited.shortage.used, limited.shortage.wait_ms) == ("requests", 3, 57_000)
    limited = decide(fold, charge(85, requests=None), 4000)
    assert isinstance(limited, Limited)
    assert (limited.shortage.kind, limited.shortage.used, limited.shortage.wait_ms) == ("tokens", 30, 58_000)
    assert decide(fold, charge(10), 4000 + 56_999) != Granted()
    assert decide(fold, charge(10), 4000 + 57_000) == Granted()


def test_what_asks_for_more_than_the_limit_never_fits_and_never_counts() -> None:
    fold = LedgerFold()
    limited = decide(fold, charge(101), RESYNC_MS - 10)
    assert isinstance(limited, Limited)
    assert limited.shortage.wait_ms is None
    assert decide(fold, charge(100), RESYNC_MS + 10) == Granted()


def test_tenants_and_tiers_have_windows_of_their_own() -> None:
    fold = LedgerFold()
    for fields in ({}, {"tenant": "beta"}, {"tier": "priority"}):
        assert decide(fold, charge(1, requests=1, **fields), 5) == Granted()
        assert isinstance(decide(fold, charge(1, requests=1, **fields), 6), Limited)


def test_standing_is_what_is_taken_now() -> None:
    fold, limits = LedgerFold(), Limits(3, 100)
    decide(fold, charge(0), 3000)
    decide(fold, charge(40), 1000)  # the clock never goes back: 3000
    fold.apply(Settlement(response_id="resp_x", tenant="acme", tier="default", tokens=4), 3000)
    standing = fold.standing("acme", "default", limits, 4000)
    assert (standing.requests, standing.tokens) == (2, 40)
    assert (standing.requests_reset_ms, standing.tokens_reset_ms) == (59_000, 59_000)
    later = fold.standing("acme", "default", limits, 3000 + WINDOW_MS)
    assert (later.requests, later.tokens, later.requests_reset_ms) == (0, 0, 0)
    assert fold.standing("beta", "default", limits, 4000).requests == 0


def keyed(**fields: object) -> Charge:
    return charge(**{"idempotency_key": "k", "fingerprint": "f", "gateway": "g", **fields})  # type: ignore[arg-type]


def outcome(of: Charge, accepted: bool) -> Outcome:
    return Outcome(response_id=of.response_id, tenant=of.tenant, idempotency_key="k", accepted=accepted)


def test_a_key_stands_for_the_first_request_granted_with_it() -> None:
    fold, first = LedgerFold(), keyed(further=["resp_b"], requests=1)
    assert decide(fold, first, 10) == Granted()
    again = decide(fold, keyed(requests=1), 20)
    assert isinstance(again, Repeated)
    assert again.holder.responses == (first.response_id, "resp_b")
    assert isinstance(decide(fold, keyed(fingerprint="other"), 20), Conflict)
    assert decide(fold, keyed(tenant="beta"), 20) == Granted()
    assert isinstance(decide(fold, keyed(), 10 + KEEP_MS - 1), Repeated)
    assert decide(fold, keyed(), 10 + KEEP_MS) == Granted()


def test_a_refused_request_takes_no_key() -> None:
    fold = LedgerFold()
    assert decide(fold, charge(requests=1), 10) == Granted()
    assert isinstance(decide(fold, keyed(requests=1), 20), Limited)
    assert decide(fold, keyed(fingerprint="other", requests=9), 30) == Granted()


def test_what_came_to_nothing_frees_its_key_and_what_was_accepted_keeps_it() -> None:
    fold, first = LedgerFold(), keyed(requests=9)
    decide(fold, first, 10)
    fold.apply(outcome(keyed(), False), 11)  # of another request: means nothing
    fold.apply(outcome(first, False), 12)
    second = keyed(requests=9)
    assert decide(fold, second, 13) == Granted()
    fold.apply(outcome(second, True), 14)
    fold.apply(outcome(second, False), 15)  # the first word counts
    again = decide(fold, keyed(requests=9), 16)
    assert isinstance(again, Repeated)
    assert again.holder.accepted


def test_only_one_of_two_replaces_what_came_to_nothing() -> None:
    fold, lost = LedgerFold(), keyed(requests=9)
    decide(fold, lost, 10)
    heir = keyed(requests=9, replaces=lost.response_id)
    assert decide(fold, heir, 11) == Granted()
    late = decide(fold, keyed(requests=9, replaces=lost.response_id), 12)
    assert isinstance(late, Repeated)
    assert late.holder.first == heir.response_id


def test_memory_ends_with_the_window_and_the_keys() -> None:
    fold = LedgerFold()
    for number in range(500):
        fold.apply(keyed(tenant=f"t{number % 7}", idempotency_key=f"k{number}", requests=None), 1000 + number)
    assert fold.size == 1000
    fold.apply(charge(), 1500 + WINDOW_MS)
    assert fold.size == 501
    fold.apply(charge(), 1500 + KEEP_MS)
    assert fold.size == 1
