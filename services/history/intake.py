"""A record of the control plane becomes what its handler wants appended: retried, and never skipped."""

import asyncio
import logging
from collections.abc import Collection

from opentelemetry.trace import Span

from services.history.errors import StoreError, StoreRefusedError
from services.history.handlers import HANDLERS, given_up, patience_s, too_late
from services.history.ports import Ports
from services.history.retry import TRANSIENT, Patience
from shared.control import Outbox, Outgoing, RecordHandler, place
from shared.errors import RecordRefusedError
from shared.log import RawRecord
from shared.records import Record
from shared.topics import REPLIES, Topic

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3


class HistoryHandler(RecordHandler):
    """Answers what is asked of the store. Raises StoreError when that is unusable: then the service must end."""

    def __init__(self, topic: Topic, ports: Ports, outbox: Outbox) -> None:
        super().__init__(topic, outbox)
        self._ports = ports
        self._handling = Patience(topic.name)

    async def handle(self, raw: RawRecord, record: Record, span: Span) -> None:
        """See `RecordHandler.handle`."""
        try:
            await self._send_all(await self._outcome(raw, record))
        except RecordRefusedError as error:
            await self._send_all(await self._give_up(raw, record, error, attempts=1))

    async def _outcome(self, raw: RawRecord, record: Record) -> list[Outgoing]:
        handler = HANDLERS[type(record)]
        for attempt in range(1, MAX_ATTEMPTS + 1):
            timeout_s = patience_s(record, self._ports.clock_ms())
            try:
                return await self._handling.until_available(lambda: handler(record, self._ports), timeout_s=timeout_s)
            except TRANSIENT as error:
                return too_late(record, error)
            except StoreRefusedError as error:
                failure: Exception = error
            except StoreError:
                raise
            except Exception as error:  # noqa: BLE001 - a handler's bug must not block the records behind it
                failure = error
            log.error("%s at %s, attempt %d", self._topic.name, place(raw), attempt, exc_info=failure)
        return await self._give_up(raw, record, failure, MAX_ATTEMPTS)

    async def _give_up(self, raw: RawRecord, record: Record, error: Exception, attempts: int) -> list[Outgoing]:
        await self.bury(raw, error, attempts)
        return await self._handling.until_available(lambda: given_up(record, self._ports))

    async def _send_all(self, outgoing: Collection[Outgoing]) -> None:
        """Answers go last: whoever has one may rely on the rest."""
        answers = [each for each in outgoing if each.topic is REPLIES]
        await asyncio.gather(*(self.send(each) for each in outgoing if each.topic is not REPLIES))
        await asyncio.gather(*(self.send(each) for each in answers))
