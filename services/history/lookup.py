"""Finding a response that has ended: in the store, else in the log, for the recorder may be a moment behind."""

import contextlib
from dataclasses import dataclass, field
from enum import Enum

from services.history.errors import StoreUnavailableError
from services.history.ports import Ports
from services.history.stores.port import StoredResponse
from shared.errors import InvalidIdError, ReplayGoneError
from shared.folds import EventFold
from shared.ids import ResponseId, parse_response_id
from shared.topics import EVENTS


class Missing(Enum):
    """Why there is no ended response to give."""

    UNKNOWN = "unknown"
    RUNNING = "running"


async def find(ports: Ports, tenant: str, response_id: str, *, until_ms: int = 0) -> StoredResponse | Missing:
    """The ended response of this tenant. While it still runs, waits for its end until `until_ms` (unix ms).

    Unknown are also the responses of other tenants, deleted ones and those with `store` false.
    """
    chain = await find_chain(ports, tenant, response_id, limit=1, until_ms=until_ms)
    return chain if isinstance(chain, Missing) else chain[-1]


async def find_chain(
    ports: Ports, tenant: str, response_id: str, *, limit: int, until_ms: int
) -> list[StoredResponse] | Missing:
    """The response and those of its ancestors that are stored with it, oldest first (see `Store.chain`).

    Never empty. Store and log stand in for each other: what one of them lacks, or cannot tell now, the other may know.
    Raises StoreUnavailableError when the log does not know it and the store does not answer; LogError.
    """
    try:
        parsed = parse_response_id(response_id)
    except InvalidIdError:
        return Missing.UNKNOWN
    if parsed.partition >= ports.partitions:
        return Missing.UNKNOWN
    search = _Search(ports, tenant, parsed, limit)
    async for _ in ports.looks(response_id, until_ms):
        found = await search.look()
        if found is not Missing.RUNNING:
            return found
    return Missing.RUNNING


@dataclass(slots=True)
class _Search:
    """Looks for one response; every look at the log reads on from where the last one ended."""

    ports: Ports
    tenant: str
    response_id: ResponseId
    limit: int
    fold: EventFold = field(default_factory=EventFold)
    next_offset: int | None = None

    async def look(self) -> list[StoredResponse] | Missing:
        with contextlib.suppress(StoreUnavailableError):
            if stored := await self._stored():
                return stored
        found = await self._logged()
        if found is Missing.UNKNOWN:
            # The store has the last word: it may have been recorded since, or the store did not answer before.
            return await self._stored() or found
        return found

    async def _stored(self) -> list[StoredResponse]:
        return await self.ports.store.chain(self.tenant, self.response_id.text, self.limit)

    async def _logged(self) -> list[StoredResponse] | Missing:
        try:
            replay = await self.ports.log.replay(EVENTS, self.response_id, start=self.next_offset)
        except ReplayGoneError:
            return Missing.UNKNOWN
        for envelope in replay.records:
            self.fold.apply(envelope.record)
        accepted = self.fold.accepted
        if accepted is None or self.fold.deleted or accepted.tenant != self.tenant or not accepted.spec.store:
            return Missing.UNKNOWN
        self.next_offset = replay.next_offset
        if self.fold.terminal is None:
            return Missing.RUNNING
        return [StoredResponse(accepted, self.fold.terminal)]
