"""What is remembered of the public log: nothing is read twice, nothing is missed, and not too much is kept."""

import asyncio
from collections.abc import Collection
from typing import Any

import pytest

from services.history import told as module
from services.history.told import Tidings
from shared.errors import BrokerUnavailableError
from shared.log import Replay
from shared.records import Screening
from shared.topics import Topic
from tests.unit.history.fakes import MemoryLog, accepted, an_id, completed, delta


class Noting(MemoryLog):
    """Notes from where it is read, and lets others run meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.starts: list[int | None] = []

    async def read(
        self, topic: Topic, partition: int, keys: Collection[str], *, since_ms: int, start: int | None = None
    ) -> Replay:
        self.starts.append(start)
        await asyncio.sleep(0)
        return await super().read(topic, partition, keys, since_ms=since_ms, start=start)


async def test_all_who_ask_read_on_from_where_the_last_one_ended() -> None:
    tidings, log, response_id = Tidings(), Noting(), an_id()
    records: list[Any] = [accepted(response_id), delta(response_id)]
    log.records[response_id] = records
    first, second = await asyncio.gather(tidings.of(response_id, log), tidings.of(response_id, log))
    assert first is second
    assert first.records == records[:1]
    records += [Screening(response_id=response_id, epoch=1, owner="b"), completed(response_id, "zombie")]
    records += [completed(response_id, "told", epoch=1)]
    again = await tidings.of(response_id, log)
    assert again.fold.terminal == records[-1]
    assert again.records == [records[0], *records[2:]]
    assert log.starts == [None, 2, 2]
    assert await tidings.of(response_id, log) is not first, "what has ended is not kept"


async def test_what_could_not_be_read_is_read_the_next_time() -> None:
    tidings, log, response_id = Tidings(), Noting(), an_id()
    log.records[response_id] = [accepted(response_id)]
    log.failures = [BrokerUnavailableError("away")]
    with pytest.raises(BrokerUnavailableError):
        await tidings.of(response_id, log)
    assert (await tidings.of(response_id, log)).fold.accepted is not None
    assert log.starts == [None, None]


async def test_only_the_latest_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 2)
    tidings, log, old, new = Tidings(), Noting(), an_id(), [an_id(), an_id()]
    for response_id in (old, *new, new[0], old, new[0]):
        log.records.setdefault(response_id, [accepted(response_id)])
        await tidings.of(response_id, log)
    assert log.starts == [None, None, None, 1, None, 1]
