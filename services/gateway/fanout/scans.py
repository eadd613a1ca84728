"""Replays for many streams at once: one scan of a partition for all that resume there (DESIGN 7)."""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from shared.errors import LogError
from shared.ids import ResponseId, now_ms
from shared.log import Replay
from shared.records import Accepted, Screening
from shared.records.codec import Envelope
from shared.telemetry import apart
from shared.topics import EVENTS, Topic

MAX_KEYS = 256
"""Responses per scan: bounds what one scan holds in memory. The rest of a crowd gets the next one."""
MAX_SEARCHES = 64
_FIRST_BAND_MS = 10_000


class LogReader(Protocol):
    """What a scan needs of `shared.log.Replayer`."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...
    async def replay(self, topic: Topic, response_id: ResponseId) -> Replay: ...
    async def read(self, topic: Topic, partition: int, keys: Collection[str], *, since_ms: int) -> Replay: ...


@dataclass(slots=True)
class _Scan:
    """Who waits for the next scan of a partition, of responses about equally old."""

    partition: int
    band: int
    waiting: dict[ResponseId, "asyncio.Future[Replay]"] = field(default_factory=dict)

    def takes(self, response_id: ResponseId, band: int) -> bool:
        """Whether the response may join."""
        same = self.partition == response_id.partition and self.band == band
        return same and (response_id in self.waiting or len(self.waiting) < MAX_KEYS)

    def hand_out(self, found: Replay) -> None:
        """Give everybody their own records."""
        records: dict[str, list[Envelope[Any]]] = {response_id.text: [] for response_id in self.waiting}
        for envelope in found.records:
            records[envelope.record.response_id].append(envelope)
        for response_id, future in self.waiting.items():
            if not future.done():
                future.set_result(Replay(records[response_id.text], found.next_offset))


class Scans:
    """Replays responses of `responses.events`; those that are asked for while a scan is due share it.

    A scan goes from the oldest of its responses to the log's end. Responses of very different age do not share one:
    each band of ages is twice as long as the one before, so that all scans together read at most twice what the
    oldest needs, and the young ones do not wait for it.

    `readers` scan side by side. What may need a search through the whole log (older than `recent_s`, or not where its
    time says) is left to `searcher`, one at a time, so that ids that somebody made up slow only each other down.
    """

    def __init__(
        self,
        readers: Sequence[LogReader],
        searcher: LogReader,
        *,
        recent_s: float,
        clock_ms: Callable[[], int] = now_ms,
    ) -> None:
        self.scans = 0
        self._readers = list(readers)
        self._idle = list(readers)
        self._searcher = searcher
        self._searches = 0
        self._recent_ms = int(recent_s * 1000)
        self._clock_ms = clock_ms
        self._due: deque[_Scan] = deque()
        self._running: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Connect. Raises BrokerUnavailableError."""
        await asyncio.gather(*(reader.start() for reader in [*self._readers, self._searcher]))

    async def stop(self) -> None:
        """Give up what runs, disconnect."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await asyncio.gather(*(reader.stop() for reader in [*self._readers, self._searcher]))

    async def replay(self, response_id: ResponseId) -> Replay:
        """The response's records so far; none if the log has nothing of it. The end is read after this call.

        Raises ReplayGoneError when retention passed its beginning, another LogError when the log does not answer,
        AccessDeniedError.
        """
        age_ms = self._clock_ms() - response_id.created_ms
        if abs(age_ms) <= self._recent_ms:
            found = await asyncio.shield(self._scanned(response_id, _band(age_ms)))
            if _begins(found.records):
                return found
        return await self._search(response_id)

    async def _search(self, response_id: ResponseId) -> Replay:
        if self._searches >= MAX_SEARCHES:
            raise LogError(f"{self._searches} searches through the log wait already")
        self._searches += 1
        try:
            return await self._searcher.replay(EVENTS, response_id)
        finally:
            self._searches -= 1

    def _scanned(self, response_id: ResponseId, band: int) -> "asyncio.Future[Replay]":
        scan = next((due for due in self._due if due.takes(response_id, band)), None)
        if scan is None:
            scan = _Scan(response_id.partition, band)
            self._due.append(scan)
        future = scan.waiting.get(response_id)
        if future is None:
            future = scan.waiting[response_id] = asyncio.get_running_loop().create_future()
            future.add_done_callback(_retrieved)
        # Later, so that all who come in this turn of the event loop get into one scan.
        asyncio.get_running_loop().call_soon(self._scan_what_is_due)
        return future

    def _scan_what_is_due(self) -> None:
        while self._due and self._idle:
            scanning = self._scan(self._idle.pop(), self._due.popleft())
            task = asyncio.create_task(scanning, name="scan", context=apart())
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _scan(self, reader: LogReader, scan: _Scan) -> None:
        self.scans += 1
        keys = [response_id.text for response_id in scan.waiting]
        since_ms = min(response_id.created_ms for response_id in scan.waiting)
        try:
            found = await reader.read(EVENTS, scan.partition, keys, since_ms=since_ms)
        except asyncio.CancelledError:
            for future in scan.waiting.values():
                future.cancel()
            raise
        except Exception as error:  # noqa: BLE001 -- raised again by everybody who waits
            for future in scan.waiting.values():
                future.set_exception(error)
        else:
            scan.hand_out(found)
        finally:
            self._idle.append(reader)
            self._scan_what_is_due()


def _band(age_ms: int) -> int:
    """0 below ten seconds, 1 below twenty, 2 below forty, …"""
    return (max(0, age_ms) // _FIRST_BAND_MS).bit_length()


def _begins(records: Sequence[Envelope[Any]]) -> bool:
    """Whether these are a response's records from its first one on; an owner may have marked its epoch before."""
    first = next((envelope.record for envelope in records if not isinstance(envelope.record, Screening)), None)
    return isinstance(first, Accepted)


def _retrieved(future: "asyncio.Future[Replay]") -> None:
    """Who asked may have left: then nobody else looks at the error."""
    if not future.cancelled():
        future.exception()
