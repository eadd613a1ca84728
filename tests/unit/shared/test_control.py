"""The control plane's intake: side by side, bounded, committed behind the oldest unfinished."""

import asyncio
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.control import Intake, Watermark
from shared.errors import ChatmeshError
from shared.log import RawRecord


class Slow:
    """A handler whose records end when the test says so."""

    def __init__(self) -> None:
        self.gates: dict[tuple[int, int, str], asyncio.Event] = defaultdict(asyncio.Event)
        self.started: list[tuple[int, int]] = []

    async def __call__(self, record: RawRecord) -> None:
        self.started.append((record.partition, record.offset))
        await self.gates[record.partition, record.offset, record.key].wait()

    async def finish(self, partition: int, offset: int, key: str = "k") -> None:
        self.gates[partition, offset, key].set()
        for _ in range(5):
            await asyncio.sleep(0)


class Commits:
    def __init__(self) -> None:
        self.made: list[tuple[int, int]] = []

    async def __call__(self, partition: int, next_offset: int) -> None:
        self.made.append((partition, next_offset))


def place(partition: int, offset: int, key: str = "k") -> RawRecord:
    return RawRecord(partition, offset, 0, key, b"", ())


async def take(intake: Intake, *records: RawRecord) -> None:
    for record in records:
        await intake.take(record)


async def test_a_slow_record_holds_back_its_partitions_commit_and_nothing_else() -> None:
    slow, commits = Slow(), Commits()
    intake = Intake(slow, commits, max_in_flight=10)
    await take(intake, place(0, 5), place(0, 6), place(0, 9), place(1, 2))
    await slow.finish(0, 6)
    await slow.finish(1, 2)
    assert commits.made == [(1, 3)]
    await slow.finish(0, 5)
    assert commits.made == [(1, 3), (0, 9)]
    await slow.finish(0, 9)
    assert commits.made[-1] == (0, 10)


async def test_what_does_not_fit_waits_in_the_log() -> None:
    slow = Slow()
    intake = Intake(slow, Commits(), max_in_flight=2)
    taking = asyncio.create_task(take(intake, *(place(0, n) for n in range(3))))
    await slow.finish(9, 9)
    assert not taking.done()
    assert len(slow.started) == 2
    await slow.finish(0, 1)
    await asyncio.wait_for(taking, 1)
    assert len(slow.started) == 3
    await intake.close(0)


async def test_a_rewound_partition_is_committed_by_its_new_run_only() -> None:
    slow, commits = Slow(), Commits()
    intake = Intake(slow, commits, max_in_flight=10)
    await take(intake, place(0, 5), place(0, 6))
    await slow.finish(0, 6)
    await take(intake, place(0, 5, "again"), place(0, 6, "again"))
    await slow.finish(0, 5)
    assert commits.made == []
    await slow.finish(0, 5, "again")
    assert commits.made == [(0, 6)]
    await intake.close(0)


async def test_what_was_taken_away_is_never_committed_below_what_others_committed() -> None:
    slow, commits = Slow(), Commits()
    intake = Intake(slow, commits, max_in_flight=10)
    await take(intake, place(0, 5), place(0, 6), place(1, 2))
    intake.forget([0])
    await slow.finish(0, 5)
    await slow.finish(0, 6)
    await slow.finish(1, 2)
    assert commits.made == [(1, 3)]
    await take(intake, place(0, 20))  # given back, after somebody else committed 20
    await slow.finish(0, 20)
    assert commits.made[-1] == (0, 21)


@pytest.mark.parametrize("everything", [False, True])
async def test_what_waits_for_a_slot_while_its_partition_is_taken_away_is_left_to_its_next_owner(
    everything: bool,
) -> None:
    slow, commits = Slow(), Commits()
    intake = Intake(slow, commits, max_in_flight=1)
    await take(intake, place(0, 5))
    waiting = asyncio.create_task(take(intake, place(0, 6)))
    await slow.finish(9, 9)
    if everything:
        intake.forget_all()
    else:
        intake.forget([0])
    await slow.finish(0, 5)
    await asyncio.wait_for(waiting, 1)
    assert slow.started == [(0, 5)] and commits.made == []
    await take(intake, place(0, 5, "again"))  # given back at what was committed
    await slow.finish(0, 5, "again")
    await take(intake, place(0, 6, "again"))
    await slow.finish(0, 6, "again")
    assert commits.made == [(0, 6), (0, 7)]


async def test_what_waits_for_a_slot_while_another_partition_is_taken_away_is_handled() -> None:
    slow, commits = Slow(), Commits()
    intake = Intake(slow, commits, max_in_flight=1)
    await take(intake, place(0, 5))
    waiting = asyncio.create_task(take(intake, place(0, 6)))
    await slow.finish(9, 9)
    intake.forget([1])
    await slow.finish(0, 5)
    await asyncio.wait_for(waiting, 1)
    await slow.finish(0, 6)
    assert commits.made == [(0, 6), (0, 7)]


async def test_closing_leaves_what_is_late_uncommitted() -> None:
    slow, commits = Slow(), Commits()
    intake = Intake(slow, commits, max_in_flight=10)
    await take(intake, place(0, 0), place(0, 1))
    await slow.finish(0, 0)
    await intake.close(timeout_s=0.01)
    await take(intake, place(0, 2))
    assert commits.made == [(0, 1)]
    assert slow.started == [(0, 0), (0, 1)]


async def test_what_no_retry_can_mend_reaches_whoever_watches() -> None:
    async def fail(_: RawRecord) -> None:
        raise ChatmeshError("a damaged store")

    commits = Commits()
    intake = Intake(fail, commits, max_in_flight=2)
    await take(intake, place(0, 0), place(0, 1))
    with pytest.raises(ChatmeshError, match="damaged"):
        await asyncio.wait_for(asyncio.shield(intake.failure), 1)
    assert commits.made == []


@given(st.lists(st.integers(0, 40), unique=True, min_size=1), st.randoms())
def test_the_watermark_never_passes_an_open_offset(offsets: list[int], random: object) -> None:
    taken = sorted(offsets)
    watermark = Watermark(taken[0])
    for offset in taken:
        watermark.take(offset)
    left, order = set(taken), list(taken)
    random.shuffle(order)  # type: ignore[attr-defined]
    for offset in order:
        watermark.done(offset)
        left.discard(offset)
        assert watermark.position == (min(left) if left else taken[-1] + 1)
