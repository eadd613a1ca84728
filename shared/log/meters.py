"""What readers and writers of the log measure: by batch, under names that OpenTelemetry's conventions give.

Who is given no `Metrics` measures all the same, for nobody.
"""

import time
from collections.abc import Callable, Mapping

from aiokafka import AIOKafkaConsumer, TopicPartition

from shared.telemetry.metrics import (
    CONSUMED_MESSAGES,
    CONSUMER_HEALS,
    CONSUMER_LAG,
    DEAD_LETTERS,
    LOST_LETTERS,
    SEND_DURATION,
    SENT_MESSAGES,
    Metrics,
    Sample,
)
from shared.topics import DEAD_LETTERS as LETTERS
from shared.topics import Party, Topic

_SEND = "send"
_NO_ERROR = ""
_SOURCES = {letters.name: source for source, letters in LETTERS.items()}

Consumer = Callable[[], AIOKafkaConsumer | None]
Ends = Callable[[], Mapping[TopicPartition, int]]


class ReaderMeter:
    """What one reader of a topic measures; `group` is empty where it is a tail or replays."""

    def __init__(self, metrics: Metrics | None, topic: Topic, group: str = "") -> None:
        self._metrics = metrics or Metrics(None)
        self._topic = topic.name
        self._group = group
        self._read = self._metrics.counter(CONSUMED_MESSAGES).labels(topic.name)
        self._healed = self._metrics.counter(CONSUMER_HEALS).labels(topic.name)
        self._forget: Callable[[], None] | None = None

    def read(self, records: int) -> None:
        """So many records came."""
        if records:
            self._read.inc(records)

    def healed(self) -> None:
        """A consumer was replaced."""
        self._healed.inc()

    def watch(self, consumer: Consumer, ends: Ends = dict) -> None:
        """Show from now on how far `consumer()` lags behind; `ends()` may be younger than what its fetches brought."""
        self.leave()
        self._forget = self._metrics.read(CONSUMER_LAG, lambda: self._lags(consumer(), ends()))

    def leave(self) -> None:
        """Show it no more."""
        forget, self._forget = self._forget, None
        if forget is not None:
            forget()

    def _lags(self, consumer: AIOKafkaConsumer | None, ends: Mapping[TopicPartition, int]) -> list[Sample]:
        return [((self._topic, self._group, str(where)), lag) for where, lag in lags(consumer, ends).items()]


def lags(consumer: AIOKafkaConsumer | None, ends: Mapping[TopicPartition, int]) -> dict[int, int]:
    """Partition → records between the consumer's position and the end, by its last fetch or by `ends`.

    Asks nobody, from any thread. What is not known yet is left out. aiokafka has no public name for a position that
    is known already, and its `highwater()` does not bear that the assignment changes meanwhile.
    """
    subscription = consumer._subscription.subscription if consumer is not None else None
    assignment = subscription.assignment if subscription is not None else None
    if assignment is None:
        return {}
    found: dict[int, int] = {}
    for where in assignment.tps:
        state = assignment.state_value(where)
        position = state._position
        known = [end for end in (state.highwater, ends.get(where)) if end is not None]
        if position is not None and known:
            found[where.partition] = max(0, max(known) - position)
    return found


class WriterMeter:
    """What the writer of a process measures."""

    def __init__(self, metrics: Metrics | None, party: Party) -> None:
        self._metrics = metrics or Metrics(None)
        letters, self._lost = self._metrics.counter(DEAD_LETTERS), self._metrics.counter(LOST_LETTERS)
        for source, topic in LETTERS.items():
            if party in topic.producers:  # shown as 0 from the start: who watches for an increase sees the first one
                letters.labels(source)
                self._lost.labels(source)

    def lane(self, topic: Topic) -> "LaneMeter":
        """What is appended to one partition of the topic."""
        return LaneMeter(self._metrics, topic)

    def letter_lost(self, source: Topic) -> None:
        """A record of this topic has no dead letter, and will have none."""
        self._lost.labels(source.name).inc()


class LaneMeter:
    """Appends to one partition, batch by batch."""

    def __init__(self, metrics: Metrics, topic: Topic) -> None:
        self._topic = topic.name
        self._messages = metrics.counter(SENT_MESSAGES)
        self._sent = self._messages.labels(topic.name, _NO_ERROR)
        self._duration = metrics.histogram(SEND_DURATION).labels(_SEND, topic.name)
        source = _SOURCES.get(topic.name)
        self._letters = metrics.counter(DEAD_LETTERS).labels(source) if source is not None else None

    def sent(self, records: int, handed_over_s: float) -> None:
        """So many records were acknowledged; `handed_over_s`: when the producer got them (`perf_counter`)."""
        self._sent.inc(records)
        self._duration.observe(time.perf_counter() - handed_over_s)
        if self._letters is not None:
            self._letters.inc(records)

    def failed(self, error: BaseException) -> None:
        """A record was not appended, or nobody knows whether it was."""
        self._messages.labels(self._topic, type(error).__name__).inc()
