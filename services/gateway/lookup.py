"""A response by its id: from a live buffer, else from the log, else from history."""

import asyncio
from dataclasses import dataclass

from services.gateway.api.errors import ApiError, not_found, unavailable
from services.gateway.auth import Caller
from services.gateway.fanout import Fanout, Lease, ReplayLog
from services.gateway.projections import ResponsesProjection
from services.gateway.replies import Replies
from shared.errors import AppendError, InvalidIdError, LogError, ReplayGoneError
from shared.ids import ResponseId, new_id, parse_response_id, response_id_text
from shared.log import LogWriter
from shared.records import GetResponse, ResponseFound
from shared.settings import MeshSettings
from shared.telemetry import inject
from shared.topics import HISTORY_QUERIES


@dataclass(frozen=True)
class Lookup:
    """Finds responses of the caller's tenant; all others do not exist for it."""

    settings: MeshSettings
    fanout: Fanout
    replay: ReplayLog
    writer: LogWriter
    replies: Replies
    query_timeout_s: float

    async def find(self, caller: Caller, text: str) -> ResponsesProjection:
        """The response as of now, accepted at least. Raises ApiError 404, 503."""
        response_id = self.parse(text)
        stream = self.fanout.find(response_id)
        if stream is not None:
            projection = ResponsesProjection(response_id, stream.fold)
        else:
            projection = await self._replayed(response_id)
        if projection.fold.accepted is None and not projection.fold.deleted:
            found = await self._stored(caller, response_id)
            projection.feed(found.accepted)
            projection.feed(found.terminal)
        return _owned(caller, response_id, projection)

    async def follow(self, caller: Caller, text: str) -> Lease | ResponseFound:
        """The response's stream, or, when only the store still has it, how it began and ended.

        Raises ApiError 404, 503.
        """
        response_id = self.parse(text)
        try:
            lease = await self.fanout.attach(response_id)
        except ReplayGoneError:
            lease = None
        except LogError as error:
            raise unavailable("The message log does not answer. Try again.") from error
        if lease is None:
            # Not from the log once more: by now it could be there, and then it has no end yet.
            return await self._stored(caller, response_id)
        try:
            _owned(caller, response_id, ResponsesProjection(response_id, lease.stream.fold))
        except ApiError:
            lease.release()
            raise
        return lease

    def parse(self, text: str) -> ResponseId:
        """Also of a completion's id. Raises ApiError 404 for what cannot be an id of this mesh."""
        try:
            response_id = parse_response_id(response_id_text(text))
        except InvalidIdError as error:
            raise not_found(text) from error
        if response_id.partition >= self.settings.partitions:
            raise not_found(text)
        return response_id

    async def _replayed(self, response_id: ResponseId) -> ResponsesProjection:
        projection = ResponsesProjection(response_id)
        try:
            replay = await self.replay(response_id)
        except ReplayGoneError:
            return projection
        except LogError as error:
            raise unavailable("The message log does not answer. Try again.") from error
        for envelope in replay.records:
            projection.feed(envelope.record)
        return projection

    async def _stored(self, caller: Caller, response_id: ResponseId) -> ResponseFound:
        """What history kept of the caller's response: the first record and the last one. Raises ApiError 404, 503."""
        query = GetResponse(
            correlation_id=new_id("query"),
            reply_to=self.replies.address,
            tenant=caller.tenant,
            response_id=response_id.text,
        )
        with self.replies.expect(query.correlation_id) as reply:
            try:
                async with asyncio.timeout(self.query_timeout_s):
                    await self.writer.append(HISTORY_QUERIES, query, trace=inject())
                    answer = await reply
            except (TimeoutError, AppendError) as error:
                raise unavailable("The history of responses does not answer. Try again.") from error
        if not isinstance(answer, ResponseFound) or answer.accepted.tenant != caller.tenant:
            raise not_found(response_id.text)
        return answer


def _owned(caller: Caller, response_id: ResponseId, projection: ResponsesProjection) -> ResponsesProjection:
    accepted = projection.fold.accepted
    if accepted is None or projection.fold.deleted or accepted.tenant != caller.tenant:
        raise not_found(response_id.text)
    return projection
