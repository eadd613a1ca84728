"""A conversation's lock: one response at a time, from before its context is read until its end is stored.

The lock stands in the store and names its response. The store gives it back with the response's terminal. Where the
recorder is behind, or nothing of the response ever became public, whoever wants the lock finds that out in the public
log: so a lock ends with its response, whoever died.
"""

import logging
from enum import Enum

from services.history.errors import StoreRefusedError
from services.history.ports import Ports
from services.history.stores.port import Conversation, Holder
from services.history.told import Told
from shared.errors import LogError
from shared.folds import EventFold

log = logging.getLogger(__name__)

LOST_AFTER_MS = 60_000
"""A response that the public log does not know so long after its deadline became nothing: its owner accepts what it
finds too late, only to end it."""

_LOOK_EVERY = 4
"""Looks at the store per look at the log: the recorder is seldom behind, and all replays share one connection."""


class Fate(Enum):
    """What became of the response that holds a lock."""

    RUNNING = "running"
    ENDED = "ended"
    LOST = "lost"


def fate(holder: Holder, told: EventFold, now_ms: int) -> Fate:
    """What the public log says of the holder, as far as it was read. Pure."""
    if told.terminal is not None or told.deleted:
        return Fate.ENDED
    if told.accepted is None and now_ms > holder.deadline_ms + LOST_AFTER_MS:
        return Fate.LOST
    return Fate.RUNNING


async def finish(ports: Ports, tenant: str, conversation_id: str, ended: Told) -> None:
    """Store the end of a response that ran in a conversation, as the recorder will once more, and give its lock back.

    In this order: nobody may go on from a conversation without its last turn. Raises StoreUnavailableError.
    """
    try:
        await ports.store.record(ended.records)
    except StoreRefusedError as error:
        log.error("%s cannot be stored, its conversation goes on without it: %s", ended.response_id, error)
    await ports.store.release(tenant, conversation_id, ended.response_id)


async def gives_back(ports: Ports, tenant: str, conversation_id: str, holder: Holder) -> bool:
    """Give the lock of `holder` back if that is over: True if it was.

    A log that does not answer tells nothing. Raises StoreUnavailableError.
    """
    try:
        told = await ports.told_of(holder.response_id)
    except LogError:
        return False
    found = fate(holder, told.fold, ports.clock_ms())
    if found is Fate.ENDED:
        await finish(ports, tenant, conversation_id, told)
    elif found is Fate.LOST:
        log.warning("%s became nothing: %s is given back", holder.response_id, conversation_id)
        await ports.store.release(tenant, conversation_id, holder.response_id)
    return found is not Fate.RUNNING


async def take(
    ports: Ports, tenant: str, conversation_id: str, wanted: Holder, *, until_ms: int
) -> Conversation | None:
    """Take the lock, waiting for it until `until_ms` (unix ms): who holds it then stands in `holder`.

    None if there is no such conversation. Raises StoreUnavailableError.
    """
    found: Conversation | None = None
    async for look in ports.looks(conversation_id, until_ms):
        found = await ports.store.lock(tenant, conversation_id, wanted)
        other = _another(found, wanted)
        if other is not None and look % _LOOK_EVERY == 0 and await gives_back(ports, tenant, conversation_id, other):
            found = await ports.store.lock(tenant, conversation_id, wanted)
            other = _another(found, wanted)
        if other is None:
            break
    return found


def _another(conversation: Conversation | None, wanted: Holder) -> Holder | None:
    holder = conversation.holder if conversation is not None else None
    return None if holder is None or holder.response_id == wanted.response_id else holder


async def freed(ports: Ports, tenant: str, conversation_id: str) -> bool:
    """Whether nobody holds the conversation any more, after a look at what became of who did.

    Raises StoreUnavailableError.
    """
    found = await ports.store.conversation(tenant, conversation_id)
    if found is None or found.holder is None:
        return found is not None
    return await gives_back(ports, tenant, conversation_id, found.holder)
