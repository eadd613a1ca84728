"""A record of the control plane, from its bytes to its acknowledged answers: what is the same whatever it asks for."""

import logging
import math
from abc import ABC, abstractmethod
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind

from shared.control.intake import place
from shared.control.outbox import Outbox, Outgoing
from shared.errors import RecordError
from shared.log import RawRecord, decode
from shared.patience import Patience
from shared.telemetry import extract, names, working
from shared.telemetry.logs import cause_of
from shared.topics import Topic

log = logging.getLogger(__name__)
tracer = trace.get_tracer("chatmesh.control")


class RecordHandler(ABC):
    """Takes records of `topic`, any number side by side; returns only when one needs no second try."""

    def __init__(self, topic: Topic, outbox: Outbox) -> None:
        self._topic = topic
        self._outbox = outbox
        self._sending = Patience(f"answers to {topic.name}")
        self._burying = Patience(f"dead-letter queue of {topic.name}")

    async def __call__(self, raw: RawRecord) -> None:
        """What it raises ends the service."""
        try:
            envelope = decode(self._topic, raw)
        except RecordError as error:
            await self.bury(raw, error)
            return
        with working(
            tracer,
            names.process(self._topic),
            context=extract(envelope.trace),
            kind=SpanKind.CONSUMER,
            attributes=names.messaging(self._topic, "process", raw.partition, raw.offset),
        ) as span:
            await self.handle(raw, envelope.record, span)

    @abstractmethod
    async def handle(self, raw: RawRecord, record: Any, span: Span) -> None:
        """Do what `record` asks for, within its `span`."""

    async def send(self, outgoing: Outgoing, *, timeout_s: float = math.inf) -> None:
        """Append, however long the broker is away, or for `timeout_s`. Raises LogError after that, RecordRefusedError
        at once."""
        await self._sending.until_available(lambda: self._outbox.send(outgoing), timeout_s=timeout_s)

    async def bury(self, raw: RawRecord, error: Exception, attempts: int = 1) -> None:
        """Put aside what could not be handled in `attempts` attempts, however long the broker is away."""
        log.error("%s at %s cannot be handled: %s", self._topic.name, place(raw), cause_of(error))
        await self._burying.until_available(lambda: self._outbox.bury(self._topic, raw, error, attempts))
