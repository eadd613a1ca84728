"""`DELETE`: what is left of a response is that it was; for ever, at every gateway, and whoever asks.

The order is what makes it hold: first the public log says `deleted`, then the store forgets. A gateway that looks an
id up reads the log first, and history may go on from what its store has; when both have forgotten, nothing can bring
the response back. The records themselves leave the log with its retention.
"""

import asyncio
import logging
from dataclasses import dataclass

from services.gateway.auth import Caller
from services.gateway.cancellation import Cancellation
from services.gateway.errors import ApiError, not_found, unavailable
from services.gateway.fanout import Lease
from services.gateway.history import History
from services.gateway.lookup import Lookup, is_kept
from shared.errors import AppendError
from shared.ids import ResponseId
from shared.log import LogWriter
from shared.records import Delete
from shared.telemetry import inject
from shared.topics import JOURNAL

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Deletion:
    """Deletes responses of the caller's tenant, from any gateway."""

    lookup: Lookup
    cancellation: Cancellation
    history: History
    writer: LogWriter
    timeout_s: float

    async def delete(self, caller: Caller, text: str) -> ResponseId:
        """Delete the response, which is cancelled first if it still runs; returns when nobody finds it any more.

        Raises ApiError: 404 for what is not the caller's, was never to be stored or is deleted already, 503 if the
        log, the response's owner or, for what only the store has, history does not answer in time (asking again is
        safe).
        """
        response_id = self.lookup.parse(text)
        followed = await self.lookup.follow(caller, text)
        if isinstance(followed, Lease):
            with followed as lease:
                await self._from_log(caller, lease)
            await self._from_store(caller, response_id)
        else:
            await self._append(caller, response_id)
            await self.history.erase(caller.tenant, response_id)
        return response_id

    async def _from_log(self, caller: Caller, lease: Lease) -> None:
        stream = lease.stream
        if not is_kept(stream.fold):
            raise not_found(stream.id.text)
        if not stream.ended:
            await self.cancellation.end(stream)
        lease.follow_beyond_the_end()
        try:
            async with asyncio.timeout(self.timeout_s):
                await self._append(caller, stream.id)
                while not stream.fold.deleted:
                    await stream.change()
        except TimeoutError as error:
            raise unavailable(f"The response was not deleted within {self.timeout_s:g} s. Try again.") from error

    async def _from_store(self, caller: Caller, response_id: ResponseId) -> None:
        """The log has decided: history forgets as soon as it reads that, even if it does not answer now."""
        try:
            await self.history.erase(caller.tenant, response_id)
        except ApiError as error:
            log.warning("%s: history will forget it when it is back: %s", response_id.text, error)

    async def _append(self, caller: Caller, response_id: ResponseId) -> None:
        try:
            record = Delete(response_id=response_id.text, tenant=caller.tenant)
            await self.writer.append(JOURNAL, record, trace=inject())
        except AppendError as error:
            raise unavailable("The message log did not take the deletion. Try again.") from error
