"""Shared scans: who shares one, who does not, and what becomes of ids that are not where their time says."""

import asyncio
from collections.abc import Collection
from typing import Any

import pytest

from services.gateway.fanout.scans import MAX_KEYS, MAX_SEARCHES, Scans
from shared.errors import AccessDeniedError, LogError, ReplayGoneError
from shared.ids import ResponseId, new_response_id
from shared.log import Replay
from shared.records import Accepted, Screening
from shared.records.codec import Envelope
from shared.topics import EVENTS, Topic
from tests.support.traces import is_traced, traced
from tests.unit.gateway.logs import Log

NOW_MS = 1_790_000_000_000


class FakeReader:
    """A `Replayer` over lists; `gate` holds its reads."""

    def __init__(self, held: dict[str, list[Any]]) -> None:
        self.held = held
        self.reads: list[tuple[int, set[str], int]] = []
        self.searches: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.in_traces: list[bool] = []

    async def start(self) -> None: ...
    async def stop(self) -> None: ...

    async def read(self, topic: Topic, partition: int, keys: Collection[str], *, since_ms: int) -> Replay:
        self.reads.append((partition, set(keys), since_ms))
        self.in_traces.append(is_traced())
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return Replay([self._envelope(record) for key in keys for record in self.held.get(key, [])], 77)

    async def replay(self, topic: Topic, response_id: ResponseId) -> Replay:
        self.searches.append(response_id.text)
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return Replay([], 78)

    def _envelope(self, record: Any) -> Envelope[Any]:
        return Envelope(record, EVENTS.name, 0, 0, 0)


class Setup:
    def __init__(self, readers: int = 1) -> None:
        self.held: dict[str, list[Any]] = {}
        self.readers = [FakeReader(self.held) for _ in range(readers)]
        self.searcher = FakeReader(self.held)
        self.scans = Scans(self.readers, self.searcher, recent_s=3600, clock_ms=lambda: NOW_MS)

    def response(self, partition: int = 3, age_ms: int = 1000) -> Log:
        log = Log(new_response_id(partition, unix_ms=NOW_MS - age_ms))
        self.held[log.id.text] = [log.accepted(), log.delta(0, "x")]
        return log

    @property
    def reads(self) -> list[tuple[int, set[str], int]]:
        return [read for reader in self.readers for read in reader.reads]

    async def replay(self, *logs: Log) -> list[Replay]:
        async with asyncio.timeout(5):
            return await asyncio.gather(*(self.scans.replay(log.id) for log in logs))


async def test_who_comes_together_shares_one_scan_from_the_oldest_on() -> None:
    setup = Setup()
    logs = [setup.response(age_ms=1000 + n) for n in range(100)]
    found = await setup.replay(*logs)
    assert setup.scans.scans == 1
    assert setup.reads == [(3, {log.id.text for log in logs}, NOW_MS - 1099)]
    for log, replay in zip(logs, found, strict=True):
        assert [envelope.record for envelope in replay.records] == setup.held[log.id.text]
        assert replay.next_offset == 77


async def test_a_scan_for_many_is_in_no_trace_of_the_first() -> None:
    setup = Setup()
    with traced():
        await setup.replay(setup.response())
    assert setup.readers[0].in_traces == [False]


async def test_who_comes_during_a_scan_shares_the_next_one() -> None:
    """The running one may have read the log's end before they began to listen."""
    setup = Setup()
    reader = setup.readers[0]
    first, *others = [setup.response() for _ in range(20)]
    reader.gate.clear()
    running = asyncio.create_task(setup.scans.replay(first.id))
    async with asyncio.timeout(5):
        while not reader.reads:
            await asyncio.sleep(0)
    waiting = asyncio.gather(*(setup.scans.replay(log.id) for log in [first, *others]))
    await asyncio.sleep(0)
    reader.gate.set()
    await running
    await waiting
    assert [keys for _, keys, _ in reader.reads] == [{first.id.text}, {log.id.text for log in [first, *others]}]


async def test_each_partition_has_its_own_and_readers_work_side_by_side() -> None:
    setup = Setup(readers=2)
    logs = [setup.response(partition) for partition in range(4) for _ in range(50)]
    await setup.replay(*logs)
    assert sorted(partition for partition, _, _ in setup.reads) == [0, 1, 2, 3]
    assert all(reader.reads for reader in setup.readers)


async def test_the_young_do_not_wait_for_what_the_old_need() -> None:
    setup = Setup()
    await setup.replay(*(setup.response(age_ms=age_ms) for age_ms in (0, 9_000, 15_000, 600_000)))
    assert [since_ms for _, _, since_ms in setup.reads] == [NOW_MS - 9_000, NOW_MS - 15_000, NOW_MS - 600_000]


async def test_a_crowd_is_read_in_parts() -> None:
    setup = Setup()
    await setup.replay(*(setup.response() for _ in range(MAX_KEYS + 1)))
    assert [len(keys) for _, keys, _ in setup.reads] == [MAX_KEYS, 1]


@pytest.mark.parametrize("age_ms", [3_700_000, -3_700_000])
async def test_ids_of_another_time_are_searched_apart(age_ms: int) -> None:
    setup = Setup()
    log = setup.response(age_ms=age_ms)
    assert (await setup.replay(log))[0].next_offset == 78
    assert (setup.reads, setup.searcher.searches) == ([], [log.id.text])


@pytest.mark.parametrize("held", ["nothing", "a delta", "an epoch and a delta"])
async def test_what_does_not_begin_where_its_time_says_is_searched_and_holds_up_nobody(held: str) -> None:
    setup = Setup()
    lost, good = setup.response(), setup.response()
    epoch = Screening(response_id=lost.id.text, epoch=1, owner="o")
    setup.held[lost.id.text] = {"nothing": [], "a delta": [lost.delta(3, "x")]}.get(held, [epoch, lost.delta(3, "x")])
    setup.searcher.gate.clear()
    searching = asyncio.create_task(setup.scans.replay(lost.id))
    (found,) = await setup.replay(good)
    assert isinstance(found.records[0].record, Accepted)
    assert not searching.done()
    setup.searcher.gate.set()
    assert (await searching).next_offset == 78
    assert setup.searcher.searches == [lost.id.text]


async def test_an_epoch_before_accepted_is_no_reason_to_search() -> None:
    setup = Setup()
    log = setup.response()
    setup.held[log.id.text].insert(0, Screening(response_id=log.id.text, epoch=1, owner="o"))
    await setup.replay(log)
    assert setup.searcher.searches == []


async def test_searches_are_bounded() -> None:
    setup = Setup()
    setup.searcher.gate.clear()
    held = [asyncio.create_task(setup.scans.replay(Log(new_response_id(1, unix_ms=1)).id)) for _ in range(MAX_SEARCHES)]
    await asyncio.sleep(0)
    with pytest.raises(LogError, match="64 searches"):
        await setup.replay(Log(new_response_id(1, unix_ms=1)))
    setup.searcher.gate.set()
    await asyncio.gather(*held)


async def test_an_error_reaches_everybody_and_the_next_scan_is_a_new_one() -> None:
    setup = Setup()
    setup.readers[0].error = LogError("away")
    logs = [setup.response() for _ in range(3)]
    found = await asyncio.gather(*(setup.scans.replay(log.id) for log in logs), return_exceptions=True)
    assert [type(error) for error in found] == [LogError] * 3
    setup.readers[0].error = None
    assert len((await setup.replay(logs[0]))[0].records) == 2
    setup.searcher.error = ReplayGoneError("past")
    with pytest.raises(ReplayGoneError):
        await setup.replay(Log(new_response_id(1, unix_ms=1)))


async def test_one_that_left_takes_nothing_from_the_others() -> None:
    setup = Setup()
    setup.readers[0].gate.clear()
    log = setup.response()
    leaving, staying = (asyncio.create_task(setup.scans.replay(log.id)) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.sleep(0)
    setup.readers[0].gate.set()
    assert len((await staying).records) == 2


async def test_stop_lets_nobody_wait() -> None:
    setup = Setup()
    setup.readers[0].gate.clear()
    waiting = asyncio.create_task(setup.scans.replay(setup.response().id))
    await asyncio.sleep(0.01)
    await setup.scans.stop()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(5):
            await waiting


@pytest.mark.parametrize("error", [AccessDeniedError("may not read"), RuntimeError("a bug")])
async def test_what_ends_a_scan_is_told_to_who_waits_and_the_next_scan_runs(error: Exception) -> None:
    setup = Setup()
    log = setup.response()
    setup.readers[0].error = error
    with pytest.raises(type(error), match=str(error)):
        await setup.replay(log)
    setup.readers[0].error = None
    assert len((await setup.replay(log))[0].records) == 2


async def test_who_waits_for_a_scan_that_is_given_up_is_cancelled() -> None:
    setup = Setup()
    setup.readers[0].gate.clear()
    waiting = asyncio.ensure_future(setup.scans.replay(setup.response().id))
    async with asyncio.timeout(5):
        while not setup.reads:
            await asyncio.sleep(0)
    await setup.scans.stop()
    with pytest.raises(asyncio.CancelledError):
        await waiting
