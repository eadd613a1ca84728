"""A response by its id: from a live buffer, else from the log, else from history."""

from dataclasses import dataclass

from services.gateway.auth import Caller
from services.gateway.errors import UNREADABLE, ApiError, not_found, unavailable
from services.gateway.fanout import Fanout, Lease, ReplayLog
from services.gateway.history import History
from services.gateway.projections import ResponsesProjection
from shared.errors import InvalidIdError, ReplayGoneError
from shared.folds import EventFold
from shared.ids import ResponseId, parse_response_id, response_id_text
from shared.records import ResponseFound
from shared.settings import MeshSettings


@dataclass(frozen=True)
class Lookup:
    """Finds responses of the caller's tenant; all others do not exist for it."""

    settings: MeshSettings
    fanout: Fanout
    replay: ReplayLog
    history: History

    async def find(self, caller: Caller, text: str) -> ResponsesProjection:
        """The response as of now, accepted at least. Raises ApiError 404 (also for what is not to be kept), 503."""
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
        _owned(caller, response_id, projection.fold)
        if not is_kept(projection.fold):
            raise not_found(response_id.text)
        return projection

    async def follow(self, caller: Caller, text: str) -> Lease | ResponseFound:
        """The response's stream, or, when only the store still has it, how it began and ended.

        Raises ApiError 404, 503.
        """
        response_id = self.parse(text)
        try:
            lease = await self.fanout.attach(response_id)
        except ReplayGoneError:
            lease = None
        except UNREADABLE as error:
            raise unavailable("The message log does not answer. Try again.") from error
        if lease is None:
            # Not from the log once more: by now it could be there, and then it has no end yet.
            return await self._stored(caller, response_id)
        try:
            _owned(caller, response_id, lease.stream.fold)
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
        except UNREADABLE as error:
            raise unavailable("The message log does not answer. Try again.") from error
        for envelope in replay.records:
            projection.feed(envelope.record)
        return projection

    async def _stored(self, caller: Caller, response_id: ResponseId) -> ResponseFound:
        """What history kept of the caller's response: the first record and the last one. Raises ApiError 404, 503."""
        found = await self.history.response(caller.tenant, response_id)
        if found is None or found.accepted.tenant != caller.tenant:
            raise not_found(response_id.text)
        return found


def is_kept(fold: EventFold) -> bool:
    """Whether the response was to be stored: else its stream may be read as long as the log has it, and that is all."""
    return fold.accepted is not None and fold.accepted.spec.store


def _owned(caller: Caller, response_id: ResponseId, fold: EventFold) -> None:
    if fold.accepted is None or fold.deleted or fold.accepted.tenant != caller.tenant:
        raise not_found(response_id.text)
