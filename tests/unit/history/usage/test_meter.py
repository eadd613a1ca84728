"""What responses used is counted once each, whatever the log repeats and however often the meter dies."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.history.usage import Totals, UsageMeter
from services.history.usage.totals import OVERDUE_MS, REMEMBERED_MS, PartitionUsage
from shared.errors import LogError
from shared.folds.events import EventFold
from shared.log import RawRecord
from shared.records import TERMINALS, Completed, Deleted, Failed, Record, Screening, Usage
from shared.records.codec import encode_headers, encode_value
from tests.unit.history.fakes import FAR_MS, NOW_MS, TENANT, accepted, an_id, completed, delta

PARTITION = 3


@dataclass
class Group:
    """A group's offsets over one partition's records; `keeps_notes` false is the embedded broker."""

    keeps_notes: bool = True
    offset: int | None = None
    note: str = ""
    position: int = 0
    ours: bool = True
    failures: list[LogError] = field(default_factory=list)

    async def committed(self, partition: int) -> tuple[int, str] | None:
        assert partition == PARTITION
        return None if self.offset is None else (self.offset, self.note)

    async def commit(self, partition: int, next_offset: int, note: str = "") -> bool:
        assert partition == PARTITION
        if self.failures:
            raise self.failures.pop(0)
        if self.ours:
            assert self.offset is None or next_offset > self.offset
            self.offset, self.note = next_offset, note if self.keeps_notes else ""
        return self.ours

    def seek(self, partition: int, offset: int) -> None:
        assert partition == PARTITION
        self.position = offset


def in_log(records: Sequence[Record], log_ms: int = NOW_MS) -> list[RawRecord]:
    """The records as they stand in the partition, one a millisecond."""
    return [
        RawRecord(
            PARTITION,
            n,
            log_ms + n,
            record.subject,
            encode_value(record),
            tuple(encode_headers(record, "moderation-1")),
        )
        for n, record in enumerate(records)
    ]


def headers_of(record: Record) -> tuple[tuple[str, bytes], ...]:
    return tuple(encode_headers(record, "moderation-1"))


def expected(records: Sequence[Record]) -> Totals:
    """By the public rules, of all that stands there."""
    folds: dict[str, EventFold] = {}
    totals = Totals()
    for record in records:
        counted = folds.setdefault(record.subject, EventFold()).apply(record)  # type: ignore[arg-type]
        if isinstance(counted, TERMINALS):
            totals = totals.with_end(counted)
    return totals


async def life(records: Sequence[RawRecord], group: Group, upto: int, *, dies: bool) -> UsageMeter:
    """One replica: takes over, reads up to the offset `upto`, commits unless it dies."""
    meter = UsageMeter()
    await meter.take_over([PARTITION], group)
    for record in records[group.position : upto]:
        await meter.take([record])
    if not dies:
        await meter.commit(group)
    return meter


IDS = [an_id(PARTITION) for _ in range(3)]


def a_record(which: int, kind: str, epoch: int, tokens: int) -> Record:
    response_id = IDS[which]
    if kind == "accepted":
        return accepted(response_id, epoch=epoch)
    if kind == "screening":
        return Screening(response_id=response_id, epoch=epoch, owner="moderation-2")
    if kind == "deleted":
        return Deleted(response_id=response_id, epoch=epoch, tenant=TENANT)
    if kind == "delta":
        return delta(response_id)
    usage = Usage(input_tokens=tokens, output_tokens=2 * tokens)
    common = {"response_id": response_id, "epoch": epoch, "tenant": TENANT, "text": "", "usage": usage}
    if kind == "completed":
        return Completed(**common, finished_ms=NOW_MS)  # type: ignore[arg-type]
    return Failed(**common, finished_ms=NOW_MS, code="deadline", message="too late")  # type: ignore[arg-type]


RECORDS = st.lists(
    st.builds(
        a_record,
        st.integers(0, len(IDS) - 1),
        st.sampled_from(["accepted", "screening", "delta", "completed", "failed", "deleted"]),
        st.integers(0, 2),
        st.integers(1, 9),
    ),
    max_size=25,
)
DEATHS = st.lists(st.tuples(st.integers(0, 25), st.booleans()), max_size=4)


@given(records=RECORDS, lives=DEATHS, keeps_notes=st.booleans())
async def test_comes_to_what_the_log_says_whatever_it_repeats_and_whoever_dies(
    records: list[Record], lives: list[tuple[int, bool]], keeps_notes: bool
) -> None:
    log, group = in_log(records), Group(keeps_notes)
    for upto, dies in sorted(lives):
        await life(log, group, upto, dies=dies)
    last = await life(log, group, len(log), dies=False)
    assert last.totals.get(PARTITION, Totals()) == expected(records)


@given(records=RECORDS, lives=DEATHS)
async def test_what_is_told_never_goes_back(records: list[Record], lives: list[tuple[int, bool]]) -> None:
    log, group, told = in_log(records), Group(), Totals()
    for upto, dies in [*sorted(lives), (len(log), False)]:
        for meter in (await life(log, group, 0, dies=True), await life(log, group, upto, dies=dies)):
            now = meter.totals[PARTITION]
            assert now.output_tokens >= told.output_tokens
            assert sum(now.responses.values()) >= sum(told.responses.values())
            told = now


async def test_says_where_it_begins_if_that_is_not_where_the_log_began(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log, group = in_log([delta(IDS[0]), accepted(IDS[0]), completed(IDS[0])]), Group()
    kept = log[1:]  # retention dropped the first, and the commits
    await life(kept, group, 2, dies=False)
    (said,) = [record.getMessage() for record in caplog.records]
    assert f"in partition {PARTITION} is counted from offset 1 on" in said
    caplog.clear()
    await life(kept, group, 2, dies=False)  # goes on behind a commit
    await life(log, Group(), 3, dies=False)  # begins where the log began
    assert caplog.records == []


async def test_tells_only_what_is_committed() -> None:
    log, group = in_log([accepted(IDS[0]), completed(IDS[0])]), Group()
    meter = await life(log, group, 2, dies=True)
    assert meter.totals == {PARTITION: Totals()}
    await meter.commit(group)
    assert meter.totals == {PARTITION: Totals(input_tokens=3, output_tokens=2, responses={"completed": 1})}


async def test_without_notes_tells_nothing_before_it_has_read_what_was_committed() -> None:
    log, group = in_log([accepted(IDS[0]), completed(IDS[0])]), Group(keeps_notes=False, offset=2)
    meter = await life(log, group, 1, dies=False)
    assert meter.totals == {}
    await meter.take(log[1:])
    await meter.commit(group)
    assert meter.totals[PARTITION].responses == {"completed": 1}


@pytest.mark.parametrize("note", ["set by hand", "{}", '{"totals":{},"replay_from":-1}', "[]", "\x00"])
async def test_a_note_that_is_not_ours_is_none(note: str, caplog: pytest.LogCaptureFixture) -> None:
    log = in_log([accepted(IDS[0]), completed(IDS[0])])
    meter = await life(log, Group(offset=2, note=note), 2, dies=False)
    assert meter.totals[PARTITION].responses == {"completed": 1}
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_an_end_that_began_before_the_commit_counts_after_it() -> None:
    log, group = in_log([accepted(IDS[0]), completed(IDS[0])]), Group()
    await life(log, group, 1, dies=False)
    last = await life(log, group, 2, dies=False)
    assert last.totals[PARTITION].responses == {"completed": 1}


async def test_a_commit_that_fails_is_made_up_by_the_next(caplog: pytest.LogCaptureFixture) -> None:
    failures = [LogError("no answer within 5 s") for _ in range(3)]
    log, group = in_log([accepted(IDS[0]), completed(IDS[0])]), Group(failures=failures)
    meter = await life(log, group, 2, dies=False)
    await meter.commit(group)
    await meter.commit(group)
    assert group.offset is None
    await meter.commit(group)
    assert group.offset == 2
    began, ended = (record.getMessage() for record in caplog.records)  # once, however long the broker is away
    assert "no answer within 5 s" in began
    assert "work again, after 3 failures" in ended


async def test_a_commit_that_came_to_nothing_ends_no_outage(caplog: pytest.LogCaptureFixture) -> None:
    """The member leaves its group while it heals, and the broker is still away."""
    group = Group(failures=[LogError("no answer within 5 s")])
    meter = await life(in_log([accepted(IDS[0]), completed(IDS[0])]), group, 2, dies=False)
    group.ours = False
    await meter.commit(group)
    await meter.commit(group)
    assert len(caplog.records) == 1


async def test_what_another_member_holds_is_told_by_it_alone() -> None:
    log, group = in_log([accepted(IDS[0]), completed(IDS[0])]), Group()
    meter = await life(log, group, 2, dies=True)
    await meter.give_up([PARTITION], group)
    assert meter.totals == {}
    assert group.offset == 2


async def test_an_unreadable_record_counts_for_nothing_and_holds_up_nothing() -> None:
    log, group = in_log([accepted(IDS[0]), completed(IDS[0])]), Group()
    spoilt = RawRecord(PARTITION, 0, NOW_MS, IDS[1], b"{", log[1].headers)
    shifted = [RawRecord(r.partition, r.offset + 1, r.timestamp_ms, r.key, r.value, r.headers) for r in log]
    meter = await life([spoilt, *shifted], group, 3, dies=False)
    assert meter.totals[PARTITION].responses == {"completed": 1}


def test_what_is_read_again_is_bounded() -> None:
    """By the log's clock: an end is remembered for a while, and what never ends for an hour past its deadline."""
    usage = PartitionUsage(Totals(), 0)
    usage.apply(accepted(IDS[0]), 10, NOW_MS)
    usage.apply(completed(IDS[0]), 11, NOW_MS)
    assert usage.note(12).replay_from == 10
    never = accepted(IDS[1])
    usage.apply(never, 12, NOW_MS + REMEMBERED_MS + 1)
    assert usage.note(13).replay_from == 12
    usage.apply(accepted(IDS[2]), 13, FAR_MS + OVERDUE_MS)
    assert usage.note(14).replay_from == 12
    usage.apply(delta(IDS[2]), 14, FAR_MS + OVERDUE_MS + 1)  # type: ignore[arg-type]  # any record moves the clock
    assert usage.note(15).replay_from == 15
