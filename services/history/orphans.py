"""Ends whose beginning the store does not have.

The recorder begins where its group stands. Where the store does not reach as far (its file was lost or replaced, or
history was away for longer than the log's retention), the ends of responses that ran at that place come without their
`accepted`, and a store keeps no end without a beginning. The log may still have the whole response.
"""

import logging
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from services.history.stores.port import RECORDABLE, Recordable, Recorded, Store
from services.history.told import ResponseLog
from shared.errors import InvalidIdError, ReplayGoneError
from shared.ids import parse_response_id
from shared.records import TERMINALS, Accepted
from shared.topics import EVENTS

log = logging.getLogger(__name__)

_REMEMBERED = 10_000


class Orphans:
    """Completes from the log what the store could not end by itself."""

    def __init__(self, store: Store, events: ResponseLog) -> None:
        self._store = store
        self._events = events
        # Responses that are not to be stored, so that their ends need no search: one too few costs one replay.
        self._unstored: OrderedDict[str, None] = OrderedDict()

    async def adopt(self, records: Sequence[Recordable], recorded: Recorded) -> Recorded:
        """Store what `records`, of which the store made `recorded`, end without a beginning there.

        Returns what became of these. Raises StoreError, LogError.
        """
        self._note_unstored(records)
        known = {each.response_id for each in recorded.appended} | recorded.ended | recorded.forgotten
        found: list[Recordable] = []
        for end in (record for record in records if isinstance(record, TERMINALS)):
            if end.response_id in known or end.response_id in self._unstored:
                continue
            known.add(end.response_id)
            if await self._store.get(end.tenant, end.response_id) is None:
                found += await self._from_log(end.response_id)
        return await self._adopted(found) if found else Recorded()

    async def _from_log(self, response_id: str) -> list[Recordable]:
        try:
            replay = await self._events.replay(EVENTS, parse_response_id(response_id))
        except (ReplayGoneError, InvalidIdError) as error:
            log.warning("an end without its beginning cannot be stored: %s", error)
            return []
        return [envelope.record for envelope in replay.records if isinstance(envelope.record, RECORDABLE)]

    async def _adopted(self, records: Sequence[Recordable]) -> Recorded:
        self._note_unstored(records)
        adopted = await self._store.record(records)
        for response_id in adopted.ended:
            log.info("%s is stored from the log: the recorder began behind its beginning", response_id)
        return adopted

    def _note_unstored(self, records: Iterable[Recordable]) -> None:
        for record in records:
            if isinstance(record, Accepted) and not record.spec.store:
                self._unstored[record.response_id] = None
        while len(self._unstored) > _REMEMBERED:
            self._unstored.popitem(last=False)
