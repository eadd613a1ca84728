"""Reads the public log for what responses used, and keeps the totals with the group's committed offsets.

A group of its own, beside the recorder's: a store that is away stops no counting, and what is read again after a
takeover is recorded no second time.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from services.history.reading import recordable
from services.history.stores.port import Recordable
from services.history.usage.totals import Note, PartitionUsage, Totals
from shared.errors import LogError, RecordError
from shared.log import RawRecord
from shared.log.outage import Outage
from shared.topics import METERS

log = logging.getLogger(__name__)

COMMIT_EVERY_S = 1.0


class Offsets(Protocol):
    """Where the group stands; `shared.log.GroupConsumer` is the real one. All raise LogError but `seek`."""

    async def committed(self, partition: int) -> tuple[int, str] | None:
        """The committed offset and the note beside it (empty where the broker keeps none)."""

    async def commit(self, partition: int, next_offset: int, note: str = "") -> bool:
        """False if the partition is no longer ours."""

    def seek(self, partition: int, offset: int) -> None:
        """Go on there."""


class _Partition:
    """One partition that is ours: its state, how far it was read, and what of it the log knows."""

    def __init__(self, usage: PartitionUsage, committed: int, known: Totals | None, *, is_new: bool = False) -> None:
        self.usage = usage
        self.is_new = is_new  # nobody committed anything, and nothing was read yet
        self.next_offset = 0
        self.committed = committed
        self.known = known

    async def commit(self, number: int, offsets: Offsets) -> bool:
        """Commit what was read beyond the committed offset; whether the log took it. Raises LogError."""
        if self.next_offset < self.committed:
            return False  # what was committed is still being read again
        if self.next_offset == self.committed and self.known is not None:
            return False  # nothing came since
        next_offset, note = self.next_offset, self.usage.note(self.next_offset)
        took = next_offset > self.committed and await offsets.commit(number, next_offset, _text(note))
        if took or next_offset == self.committed:
            self.committed, self.known = next_offset, note.totals
        return took


class UsageMeter:
    """Counts the partitions that the group gives it."""

    def __init__(self) -> None:
        self._partitions: dict[int, _Partition] = {}
        self._outage = Outage(log, "commits of what responses used")

    @property
    def totals(self) -> Mapping[int, Totals]:
        """Partition → what is counted and committed: it never goes back, whoever dies. Without those that are still
        read up to what was committed before."""
        return {number: held.known for number, held in sorted(self._partitions.items()) if held.known is not None}

    async def take_over(self, numbers: Sequence[int], offsets: Offsets) -> None:
        """Go on where whoever held the partitions before committed. Raises LogError.

        Where there is an offset without a note of ours (the embedded broker keeps none, tools that set offsets write
        none), the partition is counted anew from the log's beginning, and told of once it has come to that offset.
        """
        for number in numbers:
            found_commit = await offsets.committed(number)
            offset, text = found_commit or (0, "")
            if (note := _note(number, text)) is not None:
                self._partitions[number] = _Partition(PartitionUsage(note.totals, offset), offset, note.totals)
                offsets.seek(number, note.replay_from)
            else:
                known = Totals() if offset == 0 else None
                is_new = found_commit is None
                self._partitions[number] = _Partition(PartitionUsage(Totals(), 0), offset, known, is_new=is_new)
                offsets.seek(number, 0)

    async def give_up(self, numbers: Sequence[int], offsets: Offsets) -> None:
        """Commit what was counted, then forget the partitions."""
        await self.commit(offsets, numbers)
        for number in numbers:
            self._partitions.pop(number, None)

    async def take(self, batch: Sequence[RawRecord]) -> None:
        """Count a polled batch."""
        for raw in batch:
            if (held := self._partitions.get(raw.partition)) is not None:
                if held.is_new:
                    _tell_of_begin(raw)
                    held.is_new = False
                if (record := _counted(raw)) is not None:
                    held.usage.apply(record, raw.offset, raw.timestamp_ms)
                held.next_offset = raw.offset + 1

    async def keep_committing(self, offsets: Offsets) -> None:
        """Commit every COMMIT_EVERY_S, until cancelled."""
        while True:
            await asyncio.sleep(COMMIT_EVERY_S)
            await self.commit(offsets)

    async def commit(self, offsets: Offsets, numbers: Sequence[int] | None = None) -> None:
        """Commit what was counted since the last time, in all partitions if `numbers` is None."""
        chosen = list(self._partitions) if numbers is None else numbers
        for number in chosen:
            try:
                if (held := self._partitions.get(number)) is not None and await held.commit(number, offsets):
                    self._outage.over()
            except LogError as error:
                self._outage.failed(error)  # the next commit covers it
                return


def _tell_of_begin(first: RawRecord) -> None:
    if first.offset > 0:
        log.info(
            "what responses used in partition %d is counted from offset %d on: "
            "the group %s has no commits there (Kafka drops those of a group that was away for long), "
            "and the log has dropped what came before",
            first.partition,
            first.offset,
            METERS.name,
        )


def _note(partition: int, text: str) -> Note | None:
    if not text:
        return None
    try:
        return msgspec.json.decode(text, type=Note)
    except msgspec.DecodeError:
        log.warning(
            "the note beside the offset of %s in partition %d is not ours: what the log holds is counted anew",
            METERS.name,
            partition,
        )
        return None


def _text(note: Note) -> str:
    return msgspec.json.encode(note).decode()


def _counted(raw: RawRecord) -> Recordable | None:
    try:
        envelope = recordable(raw)
    except RecordError as error:
        log.debug("not counted, the recorder reports it: %s", error)
        return None
    return envelope.record if envelope is not None else None
