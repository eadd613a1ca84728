"""aiokafka's reading of fetched batches, past what it cannot read.

A header's name is text to aiokafka, and bytes to Kafka: where they are no UTF-8, as any other client may write them,
reading the batch ends in a UnicodeDecodeError, the next fetch begins with the same batch, and nobody would
get past it.
"""

import logging
from collections.abc import Iterator
from typing import Any

import aiokafka.consumer.fetcher
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import PartitionRecords

log = logging.getLogger(__name__)


class Records(PartitionRecords):  # type: ignore[misc]
    """The records of a fetch, without those that stand in a batch at or behind a header that cannot be read."""

    def __init__(self, tp: TopicPartition, records: Any, *rest: Any) -> None:
        super().__init__(tp, _Batches(tp, records), *rest)


class _Batches:
    """aiokafka's `MemoryRecords`."""

    def __init__(self, where: TopicPartition, records: Any) -> None:
        self._where = where
        self._records = records
        self.has_next = records.has_next

    def next_batch(self) -> "_Batch":
        return _Batch(self._where, self._records.next_batch())


class _Batch:
    """aiokafka's batch. Who wrote the one record wrote all of them: a batch has one producer."""

    def __init__(self, where: TopicPartition, batch: Any) -> None:
        self._where = where
        self._batch = batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator[Any]:
        read = self._batch.base_offset
        try:
            for record in self._batch:
                read = record.offset + 1
                yield record
        except UnicodeDecodeError:
            log.error(
                "%s/%d: passes over offset %d up to offset %d: a header's name is no UTF-8",
                self._where.topic,
                self._where.partition,
                read,
                self._batch.next_offset - 1,
            )


# The fetcher takes no class for its records: this is the name by which it calls it.
aiokafka.consumer.fetcher.PartitionRecords = Records
