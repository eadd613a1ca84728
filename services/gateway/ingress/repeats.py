"""A request that came again with its idempotency key: its first responses, followed from their beginning."""

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from services.gateway.errors import UNREADABLE, ApiError, retry_after, unavailable
from services.gateway.fanout import Fanout, Lease
from services.gateway.ledger import Holder, Ledger
from shared.errors import AppendError, ReplayGoneError
from shared.heartbeats import Cluster
from shared.ids import parse_response_id
from shared.log import LogWriter
from shared.records import Cancel
from shared.telemetry import inject
from shared.topics import JOURNAL

_BUSY_RETRY_MS = 1000


@dataclass(frozen=True)
class Repeats:
    """Finds the responses that a key stands for, also those of another gateway, and of one that died meanwhile."""

    ledger: Ledger
    fanout: Fanout
    writer: LogWriter
    cluster: Cluster
    look_again_s: float

    async def follow(self, holder: Holder, deadline_s: float) -> list[Lease] | None:
        """The streams of the first request's responses; None if nothing became of them, so that the key may be used.

        Raises ApiError: 409 if the first request is not decided within `deadline_s` or its responses are gone, 503.
        """
        try:
            async with asyncio.timeout(deadline_s):
                while holder.accepted is None:
                    await self.ledger.news(holder, self.look_again_s)
                    if holder.accepted is None and (leases := await self._undecided(holder)) is not None:
                        return leases or None
        except TimeoutError as error:
            raise _conflict("The first request with this Idempotency-Key is still in progress. Try again.") from error
        if not holder.accepted:
            return None
        leases = await self._attached(holder.responses)
        if leases is None:
            raise _gone(holder.first)
        return leases

    async def _undecided(self, holder: Holder) -> list[Lease] | None:
        """No word came. What its gateway did not live to say, the log of the responses says; if it has nothing of
        them, a dead gateway's request is cancelled before the key is used anew. None: keep waiting; []: nothing became
        of it."""
        alive = self.cluster.is_alive(holder.gateway)
        if not alive:
            await self._cancel(holder.responses)
        leases = await self._attached(holder.responses)
        if leases is None and not alive:
            return []
        return leases

    async def _attached(self, responses: Sequence[str]) -> list[Lease] | None:
        """The streams of all of them; None if the log has nothing of one. Raises ApiError 409, 503."""
        with ExitStack() as held:
            leases: list[Lease] = []
            for text in responses:
                lease = await self._attach(text)
                if lease is None:
                    return None
                leases.append(held.enter_context(lease))
                if lease.stream.fold.deleted:
                    raise _gone(text)
            held.pop_all()
            return leases

    async def _attach(self, text: str) -> Lease | None:
        try:
            return await self.fanout.attach(parse_response_id(text))
        except ReplayGoneError as error:
            raise _gone(text) from error
        except UNREADABLE as error:
            raise unavailable("The message log does not answer. Try again.") from error

    async def _cancel(self, responses: Sequence[str]) -> None:
        """Acknowledged: whatever the dead gateway had appended before is ended, should its owner accept it yet."""
        try:
            for text in responses:
                await self.writer.append(JOURNAL, Cancel(response_id=text, reason="abandoned"), trace=inject())
        except AppendError as error:
            raise unavailable("The message log does not take what is needed. Try again.") from error


def _conflict(message: str) -> ApiError:
    return ApiError(409, message, code="idempotency_key_in_use", headers=retry_after(_BUSY_RETRY_MS))


def _gone(text: str) -> ApiError:
    message = f"The response '{text}' of the first request with this Idempotency-Key is gone. Use another key."
    return ApiError(409, message, code="idempotency_key_in_use", headers={"x-should-retry": "false"})
