"""Reading the journal before a claim: together where claims come together, and each gets exactly its own."""

import asyncio
from typing import Any

import pytest

from services.inference.takeover import JournalReader
from shared.errors import BrokerUnavailableError, ReplayGoneError
from shared.log import Appended
from shared.records import Claimed, Journal, Tokens
from shared.topics import JOURNAL, Service
from tests.support.fakes import MemoryLog, MemoryReplayer
from tests.support.owner_bench import requested, response_id
from tests.unit.inference.worker.bench import job

PARTITION = 3


class Reads:
    """A journal of a few responses, and a replayer that counts its scans."""

    def __init__(self) -> None:
        self.log = MemoryLog()
        self.replayer = MemoryReplayer(self.log, Service.INFERENCE)
        self.reader = JournalReader(self.replayer)  # type: ignore[arg-type]
        self.scans = 0
        self.replayer.before_read = self._count
        self.starts: dict[int, int] = {}

    def _count(self) -> None:
        self.scans += 1

    def request(self, number: int) -> None:
        self.starts[number] = self.log.append(JOURNAL, requested(number)).offset

    def say(self, number: int, token: int, position: int) -> None:
        tokens = Tokens(response_id=response_id(number), claim="x", position=position, ids=[token], pieces=["a"])
        self.log.append(JOURNAL, tokens)

    def claim(self, number: int) -> Appended:
        claimed = Claimed(response_id=response_id(number), claim=f"c{number}", attempt=2, worker="w", mailbox=0)
        return self.log.append(JOURNAL, claimed)

    async def up_to(self, number: int, ack: Appended) -> list[Journal]:
        return await self.reader.up_to(job(number, attempt=2, journal_offset=self.starts.get(number, 0)), ack)


def kinds(records: list[Any]) -> list[str]:
    return [type(record).__name__ for record in records]


async def test_claims_that_come_together_are_read_in_one_scan_each_up_to_itself() -> None:
    reads = Reads()
    for number in (1, 2, 3):
        reads.request(number)
        reads.say(number, number, 0)
    first, second = reads.claim(1), reads.claim(2)
    reads.say(1, 9, 1)
    third = reads.claim(3)
    found = await asyncio.gather(reads.up_to(1, first), reads.up_to(2, second), reads.up_to(3, third))
    assert reads.scans == 1
    for number, records in enumerate(found, start=1):
        assert kinds(records) == ["Requested", "Tokens", "Claimed"]
        assert {record.response_id for record in records} == {response_id(number)}
    assert reads.replayer.asked[0][1:] == (0, third.offset)


async def test_claims_that_come_during_a_scan_share_the_next() -> None:
    reads = Reads()
    for number in range(1, 6):
        reads.request(number)
    acks = [reads.claim(number) for number in range(1, 6)]
    late: list[asyncio.Task[list[Journal]]] = []

    def during_the_first() -> None:
        reads.scans += 1
        if not late:
            late.extend(asyncio.ensure_future(reads.up_to(n, acks[n - 1])) for n in range(2, 6))

    reads.replayer.before_read = during_the_first
    assert kinds(await reads.up_to(1, acks[0])) == ["Requested", "Claimed"]
    assert [kinds(records) for records in await asyncio.gather(*late)] == [["Requested", "Claimed"]] * 4
    assert reads.scans == 2


async def test_a_broker_that_is_away_fails_all_who_wait_at_once() -> None:
    reads = Reads()
    for number in (1, 2):
        reads.request(number)
    acks = [reads.claim(1), reads.claim(2)]
    reads.replayer.failure = BrokerUnavailableError("away")
    outcomes = await asyncio.gather(reads.up_to(1, acks[0]), reads.up_to(2, acks[1]), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [BrokerUnavailableError] * 2
    assert reads.scans == 1
    reads.replayer.failure = None
    assert kinds(await reads.up_to(1, acks[0])) == ["Requested", "Claimed"]


async def test_whose_beginning_is_gone_is_told_and_the_others_are_not() -> None:
    """Without its `requested` a fold would call every claim superseded, and nobody would ever go on."""
    reads = Reads()
    reads.request(1)
    acks = [reads.claim(1), reads.claim(2)]
    whole, headless = await asyncio.gather(reads.up_to(1, acks[0]), reads.up_to(2, acks[1]), return_exceptions=True)
    assert kinds(whole) == ["Requested", "Claimed"]  # type: ignore[arg-type]
    assert isinstance(headless, ReplayGoneError)


async def test_a_reader_that_is_cancelled_leaves_its_scan_to_the_next() -> None:
    reads = Reads()
    for number in (1, 2):
        reads.request(number)
    acks = [reads.claim(1), reads.claim(2)]
    first = asyncio.ensure_future(reads.up_to(1, acks[0]))
    second = asyncio.ensure_future(reads.up_to(2, acks[1]))

    def cancel_the_first() -> None:
        reads.scans += 1
        if reads.scans == 1:
            first.cancel()

    reads.replayer.before_read = cancel_the_first
    assert kinds(await second) == ["Requested", "Claimed"]
    assert reads.scans == 2
    with pytest.raises(asyncio.CancelledError):
        await first
