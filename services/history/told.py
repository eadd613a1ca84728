"""What the public log tells of responses that have not ended yet, read on with every look instead of anew."""

import asyncio
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Protocol

from services.history.stores.port import RECORDABLE, Recordable
from shared.folds import EventFold
from shared.ids import ResponseId, parse_response_id
from shared.log import Replay
from shared.topics import EVENTS, Topic

REMEMBERED = 256
"""Each may hold a whole request, 1 MiB at the longest."""


class ResponseLog(Protocol):
    """Reads responses' sub-logs; `shared.log.Replayer` is the real one."""

    async def replay(self, topic: Topic, response_id: ResponseId, *, start: int | None = None) -> Replay:
        """Its records up to the log's end. Raises ReplayGoneError past the retention."""

    async def read(
        self, topic: Topic, partition: int, keys: Collection[str], *, since_ms: int, start: int | None = None
    ) -> Replay:
        """The records of the responses `keys` from offset `start` on; None: since `since_ms`, less the skew margin."""


@dataclass(slots=True)
class Told:
    """What the public log has told of one response; its deltas are left out, as they decide nothing."""

    response_id: str
    fold: EventFold = field(default_factory=EventFold)
    records: list[Recordable] = field(default_factory=list)
    _next_offset: int | None = None
    _reading: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def read_on(self, log: ResponseLog) -> None:
        """Any number of readers may ask at once. Raises LogError."""
        named = parse_response_id(self.response_id)
        async with self._reading:
            start = self._next_offset
            found = await log.read(EVENTS, named.partition, {named.text}, since_ms=named.created_ms, start=start)
            self._next_offset = found.next_offset
            for record in (envelope.record for envelope in found.records):
                if isinstance(record, RECORDABLE):
                    self.fold.apply(record)
                    self.records.append(record)


class Tidings:
    """What was told of the running responses that were asked about most recently: many may wait for the same one."""

    def __init__(self) -> None:
        self._told: OrderedDict[str, Told] = OrderedDict()

    async def of(self, response_id: str, log: ResponseLog) -> Told:
        """All that the log has told of it by now. Raises LogError."""
        told = self._told.setdefault(response_id, Told(response_id))
        self._told.move_to_end(response_id)
        if len(self._told) > REMEMBERED:
            self._told.popitem(last=False)
        await told.read_on(log)
        if told.fold.terminal is not None:
            self._told.pop(response_id, None)
        return told
