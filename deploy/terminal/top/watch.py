"""Reading what `top` shows: heartbeats, the public log, the groups' commits, and metrics where they are known."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from deploy.terminal.top.flow import KEPT_S, Flow
from deploy.terminal.top.roster import Roster
from deploy.terminal.top.scrape import Scraped, Scraper
from deploy.terminal.top.view import GroupRow, View, group_rows, service_rows
from shared.errors import LogError, RecordError
from shared.heartbeats import Cluster, ClusterWatcher
from shared.ids import now_ms
from shared.log import RawRecord, Tail, decode, existing_partitions
from shared.log.progress import ProgressReader
from shared.records import TERMINALS
from shared.settings import MeshSettings
from shared.topics import EVENTS, GROUPS, HEARTBEATS, Outsider

log = logging.getLogger(__name__)

ENDS = tuple(str(kind.__struct_config__.tag) for kind in TERMINALS)
LAG_EVERY_S = 2.0
_BEATS_BETWEEN_LOOKS = 3
_COUNTED = frozenset({"accepted", "delta", "screening", *ENDS})


class Watch:
    """Follows the mesh; `view()` is what is known now. Made by `watching`."""

    def __init__(self, settings: MeshSettings, watcher: ClusterWatcher, scraper: Scraper) -> None:
        self._settings = settings
        self._watcher = watcher
        self._scraper = scraper
        self._flow = Flow()
        self._roster = Roster()
        self._heard = (0, 0.0)  # the log's time of the last beat, and when it was heard
        self._steps: dict[str, tuple[int, int]] = {}
        self._groups: tuple[GroupRow, ...] | None = None
        self._scraped: Scraped | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def _cluster(self) -> Cluster:
        return self._watcher.cluster

    def view(self) -> View:
        """What is known now; rates of engine steps are since the view before."""
        now = self._log_now_ms()
        members = list(self._cluster.members.values())
        rows = service_rows(members, now, self._steps)
        self._steps = {member.beat.id: (member.last_ms, member.beat.steps) for member in members}
        return View(
            broker=self._settings.bootstrap_servers,
            at_ms=now,
            services=rows,
            totals=self._flow.totals(now, ENDS),
            groups=self._groups,
            scraped=self._scraped,
            news=tuple(self._roster.news),
        )

    def _log_now_ms(self) -> int:
        """The log's clock, also while nobody beats: then ages grow."""
        if self._cluster.now_ms != self._heard[0]:
            self._heard = (self._cluster.now_ms, time.monotonic())
        told_ms, heard_s = self._heard
        return told_ms + int((time.monotonic() - heard_s) * 1000) if told_ms else now_ms()

    async def read_groups(self, reader: ProgressReader) -> None:
        """Ask once where the groups stand."""
        try:
            self._groups = group_rows(await reader.read(GROUPS.values()))
        except LogError as error:
            log.debug("%s", error)
            self._groups = None

    async def look(self) -> None:
        """Take in what counters say now: rates are since then."""
        await self.scrape()
        self.view()

    async def scrape(self) -> None:
        """Ask once what the metrics say."""
        self._scraped = await self._scraper.scrape()

    def start(self, events: Tail, reader: ProgressReader) -> None:
        """Go on following, in the background; from now on who comes and goes is news."""
        self._roster.look(self._cluster.members)
        self._watcher.on_change(lambda cluster: self._roster.look(cluster.members))
        self._tasks = [asyncio.create_task(self._count_on(events)), asyncio.create_task(self._read_on(reader))]

    async def stop(self) -> None:
        """Stop following."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def pause(self, seconds: float) -> None:
        """Let the mesh go on for a while. Raises what ended the following, LogError as a rule."""
        tasks = (*self._tasks, self._watcher.task)
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def _count_on(self, events: Tail) -> None:
        async for batch in events.batches():
            self.count(batch)

    async def _read_on(self, reader: ProgressReader) -> None:
        while True:
            await asyncio.sleep(LAG_EVERY_S)
            await self.read_groups(reader)
            await self.scrape()

    def count(self, batch: Iterable[RawRecord]) -> None:
        """Take records of the public log. Deltas are counted undecoded.

        On a broker that keeps its producers' times, one whose clock is ahead would stay for longer than a minute.
        """
        now = self._log_now_ms()
        for record in batch:
            at_ms = min(record.timestamp_ms, now)
            if record.kind in _COUNTED:
                self._flow.count(at_ms, record.kind)
            if record.kind in ENDS:
                self._flow.count(at_ms, "output_tokens", _output_tokens(record))


@asynccontextmanager
async def watching(settings: MeshSettings, metrics_urls: Iterable[str]) -> AsyncIterator[Watch]:
    """Within the block the watch follows the mesh; at its beginning the last minute, the groups and a beat of everybody
    alive are known. Raises LogError, also where no mesh has ever run."""
    watcher = ClusterWatcher(settings, Outsider.OPERATOR)
    events = Tail(settings, Outsider.OPERATOR, EVENTS, skips_gone=True)
    watch = Watch(settings, watcher, Scraper(metrics_urls))
    await existing_partitions(settings, HEARTBEATS)
    partitions = await existing_partitions(settings, EVENTS)
    async with contextlib.AsyncExitStack() as stack:
        await watcher.start()
        stack.push_async_callback(watcher.stop)
        all_heard_s = time.monotonic() + settings.silent_after_s  # by then all who live have beaten
        await events.start_since(range(partitions), now_ms() - KEPT_S * 1000)
        stack.push_async_callback(events.stop)
        async for batch in events.backlog():
            watch.count(batch)
        reader = await stack.enter_async_context(ProgressReader(settings))
        await watch.read_groups(reader)
        await asyncio.sleep(max(0.0, all_heard_s - time.monotonic()))
        await watch.look()
        await asyncio.sleep(_BEATS_BETWEEN_LOOKS * settings.heartbeat_ms / 1000)  # rates need a second look
        await watch.scrape()
        stack.push_async_callback(watch.stop)
        watch.start(events, reader)
        yield watch


def _output_tokens(record: RawRecord) -> int:
    try:
        return int(decode(EVENTS, record).record.usage.output_tokens)
    except RecordError as error:
        log.warning("an unreadable end at %d/%d: %s", record.partition, record.offset, error)
        return 0
