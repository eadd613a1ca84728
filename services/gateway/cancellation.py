"""`cancel`: put it into the response's journal, then answer from how the log says that it ended (DESIGN 5.6)."""

import asyncio
from dataclasses import dataclass

from services.gateway.auth import Caller
from services.gateway.errors import ApiError, unavailable
from services.gateway.fanout import Lease, Stream
from services.gateway.lookup import Lookup
from services.gateway.projections import ResponsesProjection
from shared.errors import AppendError
from shared.ids import ResponseId, parse_response_id
from shared.log import LogWriter
from shared.records import Cancel, Cancelled, ResponseFound
from shared.telemetry import inject, lead_to
from shared.topics import JOURNAL


@dataclass(frozen=True)
class Cancellation:
    """Ends responses of the caller's tenant, from any gateway: the journal's order decides, not who asked where."""

    lookup: Lookup
    writer: LogWriter
    timeout_s: float

    async def cancel(self, caller: Caller, text: str) -> ResponsesProjection:
        """The cancelled response, the same however often it is asked for.

        Raises ApiError: 404 for an id that is not the caller's, 400 if the response ended otherwise before the cancel
        counted, 503 if the log or the response's owner does not answer in time (asking again is safe).
        """
        followed = await self.lookup.follow(caller, text)
        if not isinstance(followed, Lease):
            return _cancelled(_projected(followed))
        with followed as lease:
            if not lease.stream.ended:
                await self.end(lease.stream)
            return _cancelled(ResponsesProjection(lease.stream.id, lease.stream.fold))

    async def end(self, stream: Stream) -> None:
        """Cancel what still runs; return at its end, whatever that is. Raises ApiError 503."""
        try:
            async with asyncio.timeout(self.timeout_s):
                lead_to(stream.origin)
                await self._append(stream.id)
                while not stream.ended:
                    await stream.change()
        except TimeoutError as error:
            raise unavailable(f"The response has not ended within {self.timeout_s:g} s. Try again.") from error

    async def _append(self, response_id: ResponseId) -> None:
        try:
            await self.writer.append(JOURNAL, Cancel(response_id=response_id.text), trace=inject())
        except AppendError as error:
            raise unavailable("The message log did not take the cancel. Try again.") from error


def _projected(stored: ResponseFound) -> ResponsesProjection:
    projection = ResponsesProjection(parse_response_id(stored.accepted.response_id))
    projection.feed(stored.accepted)
    projection.feed(stored.terminal)
    return projection


def _cancelled(projection: ResponsesProjection) -> ResponsesProjection:
    """Raises ApiError 400 unless the response's end is `cancelled`."""
    terminal = projection.fold.terminal
    if not isinstance(terminal, Cancelled):
        ended = type(terminal).__name__.lower()
        article = "an" if ended[0] in "aeiou" else "a"
        raise ApiError(400, f"Cannot cancel {article} {ended} response.", param="response_id")
    return projection
