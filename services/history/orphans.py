"""Ends whose beginning the store does not have.

The recorder begins where its group stands. Where the store does not reach as far (its file was lost or replaced, or
history was away for longer than the log's retention), the ends of responses that ran at that place come without their
`accepted`, and a store keeps no end without a beginning. The log may still have the whole response.
"""

import logging
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from services.history.ports import ResponseLog
from services.history.stores.port import RECORDABLE, Recordable, Store
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

    async def adopt(self, records: Sequence[Recordable], ended: frozenset[str]) -> frozenset[str]:
        """Store what `records`, of which the store ended `ended`, end without a beginning there.

        Returns the ids of the responses that this call ended. Raises StoreError, LogError.
        """
        self._note_unstored(records)
        adopted: set[str] = set()
        for end in (record for record in records if isinstance(record, TERMINALS)):
            known = end.response_id in ended or end.response_id in self._unstored
            if not known and await self._store.get(end.tenant, end.response_id) is None:
                adopted |= await self._record_from_log(end.response_id)
        return frozenset(adopted)

    async def _record_from_log(self, response_id: str) -> frozenset[str]:
        try:
            replay = await self._events.replay(EVENTS, parse_response_id(response_id))
        except (ReplayGoneError, InvalidIdError) as error:
            log.warning("an end without its beginning cannot be stored: %s", error)
            return frozenset()
        records = [envelope.record for envelope in replay.records if isinstance(envelope.record, RECORDABLE)]
        self._note_unstored(records)
        ended = (await self._store.record(records)).ended
        for adopted in ended:
            log.info("%s is stored from the log: the recorder began behind its beginning", adopted)
        return ended

    def _note_unstored(self, records: Iterable[Recordable]) -> None:
        for record in records:
            if isinstance(record, Accepted) and not record.spec.store:
                self._unstored[record.response_id] = None
        while len(self._unstored) > _REMEMBERED:
            self._unstored.popitem(last=False)
