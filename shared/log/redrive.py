"""Sending dead letters back to where they came from, as they were: for operators (`assert_may_redrive`)."""

from typing import Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from shared.errors import AppendError, RecordRefusedError
from shared.log.admin import existing_partitions
from shared.log.clients import abandon_producer, close_producer, find_partition, make_producer, started, topic_name
from shared.log.writer import Appended, partition_of_key
from shared.records import DeadLetter, Redriven
from shared.records.codec import encode_headers, encode_value
from shared.settings import KafkaSettings
from shared.topics import DEAD_LETTERS, REGISTRY, Partitioning, Party, Topic, assert_may_produce, assert_may_redrive

REDRIVEN_HEADER = "chatmesh-redriven"
"""On a record that was sent back: how often it has been. A letter that has it was put aside again."""


class Redriver:
    """Appends what dead letters hold to its topic, byte by byte and header by header, and says so in their queue.

    One record at a time, each acknowledged before the next: people send back a few. An async context manager, which
    raises BrokerUnavailableError at its beginning.
    """

    def __init__(self, settings: KafkaSettings, party: Party, source: str) -> None:
        self._settings = settings
        self._party = party
        self._source = source
        self._producer: AIOKafkaProducer

    async def __aenter__(self) -> Self:
        what = f"append at {self._settings.bootstrap_servers}"
        self._producer = await started(self._settings, what, make_producer(self._settings), abandon_producer)
        return self

    async def __aexit__(self, *_: object) -> None:
        await close_producer(self._producer, self._settings.request_timeout_ms / 1000)

    async def send_back(self, letter: DeadLetter, times: int) -> Appended:
        """Append the record to its topic, for the `times`-th time in all. Raises AppendError, TopicError.

        RecordRefusedError for a letter that was shortened: its value may be whole, but its headers would be missing,
        and by the beginning of its key it would come to another partition.
        """
        topic = REGISTRY[letter.origin_topic]
        assert_may_redrive(topic, self._party)
        if letter.shortened:
            raise RecordRefusedError(f"the dead letter of {letter.uid} has only the beginnings of its record")
        headers = {**letter.headers, REDRIVEN_HEADER: str(times)}
        return await self._append(
            topic, await self._partition(topic, letter), letter.key or "", letter.value.encode(), list(headers.items())
        )

    async def note(self, letter: DeadLetter, letter_offset: int, sent: Appended, times: int) -> None:
        """Say in the queue that the letter at `letter_offset` was sent back. Raises AppendError, TopicError."""
        queue = DEAD_LETTERS[letter.origin_topic]
        record = Redriven(
            letter_offset=letter_offset, partition=sent.partition, offset=sent.offset, times=times, key=letter.key
        )
        assert_may_produce(queue, self._party, record)
        headers = [(name, value.decode()) for name, value in encode_headers(record, self._source)]
        await self._append(queue, 0, record.subject, encode_value(record), headers)

    async def _partition(self, topic: Topic, letter: DeadLetter) -> int:
        """The one it came from; a key's may be another one since, where partitions were added."""
        if topic.partitioning is not Partitioning.KEY or letter.key is None:
            return letter.origin_partition
        return partition_of_key(letter.key, await existing_partitions(self._settings, topic))

    async def _append(
        self, topic: Topic, partition: int, key: str, value: bytes, headers: list[tuple[str, str]]
    ) -> Appended:
        name = topic_name(self._settings, topic)
        encoded = [(header, content.encode()) for header, content in headers]
        try:
            await find_partition(self._producer.client, name, partition, self._settings.request_timeout_ms / 1000)
            sent = await self._producer.send_and_wait(
                name, value, key=key.encode() or None, partition=partition, headers=encoded
            )
        except (KafkaError, TimeoutError, ValueError) as error:
            raise AppendError(f"append to {name} failed: {type(error).__name__} {error}") from error
        return Appended(sent.partition, sent.offset, sent.timestamp)
