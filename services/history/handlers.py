"""Which record goes to which handler, and what is said where none could help.

A handler takes a typed record and the ports and returns what is to be appended. It may raise StoreUnavailableError
and LogError: then it is called again while the record's sender has reason to wait. Whatever else it raises ends, after
a few tries, in the dead-letter queue.
"""

import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any

from services.history.conversations import (
    add_items,
    create_conversation,
    erase_conversation,
    erase_item,
    get_conversation,
    get_item,
    list_items,
    release_conversation,
    update_conversation,
)
from services.history.errors import StoreUnavailableError
from services.history.ports import Ports
from services.history.queries import count_input, erase_response, get_response
from services.history.replies import Refusal, refused
from services.history.turns import request_with_context
from shared.control import Outgoing
from shared.records import (
    AddItems,
    ContextRequested,
    CountInput,
    CreateConversation,
    EraseConversation,
    EraseItem,
    EraseResponse,
    GetConversation,
    GetItem,
    GetResponse,
    ListItems,
    Query,
    Record,
    ReleaseConversation,
    UpdateConversation,
)

log = logging.getLogger(__name__)

Handler = Callable[[Any, Ports], Awaitable[list[Outgoing]]]

_BROKEN = "The server had an error while processing your request."
_WAITED = 0.99
"""Of the time until a request's deadline: the rest is for one last try, so that its client still hears the reason."""


def patience_s(record: Record, now_ms: int) -> float:
    """How long a store or a log that is away is waited for: a request that needs context waits until its deadline,
    who asked a question waits for seconds only, and hears at once that there is no answer; the rest is never late."""
    if isinstance(record, ContextRequested):
        return max(0.0, (record.request.deadline_ms - now_ms) / 1000 * _WAITED)
    return 0.0 if isinstance(record, Query) else math.inf


async def given_up(record: Record, ports: Ports) -> list[Outgoing]:
    """What the waiting gateway gets when its record was dead-lettered; a conversation is given back."""
    request = record.request if isinstance(record, ContextRequested) else None
    if request is not None and request.spec.conversation is not None:
        await ports.store.release(request.tenant, request.spec.conversation, request.response_id)
    return _refused(record, Refusal(500, "server_error", _BROKEN))


def too_late(record: Record, error: Exception) -> list[Outgoing]:
    """What it gets when `error` lasted for longer than `patience_s`."""
    away = "store" if isinstance(error, StoreUnavailableError) else "message log"
    log.warning("%s of %s is given up, the %s does not answer: %s", type(record).__name__, record.subject, away, error)
    message = f"The {away} of past responses and conversations does not answer. Try again."
    return _refused(record, Refusal(503, "server_error", message))


def _refused(record: Record, why: Refusal) -> list[Outgoing]:
    if isinstance(record, ContextRequested) and record.request.reply_to is not None:
        return [refused(record.request.reply_to, record.request.response_id, why)]
    if isinstance(record, Query):
        return [refused(record.reply_to, record.correlation_id, why)]
    return []


HANDLERS: dict[type[Record], Handler] = {
    ContextRequested: request_with_context,
    GetResponse: get_response,
    EraseResponse: erase_response,
    CountInput: count_input,
    CreateConversation: create_conversation,
    GetConversation: get_conversation,
    UpdateConversation: update_conversation,
    EraseConversation: erase_conversation,
    AddItems: add_items,
    ListItems: list_items,
    GetItem: get_item,
    EraseItem: erase_item,
    ReleaseConversation: release_conversation,
}
