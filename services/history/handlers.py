"""Which record goes to which handler.

A handler takes a typed record and the ports and returns what is to be appended. It may raise StoreUnavailableError
and LogError: then it is called again. Whatever else it raises ends, after a few tries, in the dead-letter queue.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from services.history.ports import Outgoing, Ports
from services.history.queries import count_input, erase_response, get_response
from services.history.replies import rejection
from services.history.turns import request_with_context
from shared.records import ContextRequested, CountInput, EraseResponse, GetResponse, Query, Record

Handler = Callable[[Any, Ports], Awaitable[list[Outgoing]]]


def apology(record: Record) -> list[Outgoing]:
    """What the waiting gateway gets when its record was dead-lettered."""
    message = "The server had an error while processing your request."
    if isinstance(record, ContextRequested) and record.request.reply_to is not None:
        return [rejection(record.request.reply_to, record.request.response_id, 500, "server_error", message)]
    if isinstance(record, Query):
        return [rejection(record.reply_to, record.correlation_id, 500, "server_error", message)]
    return []


HANDLERS: dict[type[Record], Handler] = {
    ContextRequested: request_with_context,
    GetResponse: get_response,
    EraseResponse: erase_response,
    CountInput: count_input,
}
