"""Questions to the store: `history.queries` in, `gateway.replies` out.

While neither store nor log answers, the asker hears so at once: it waits for seconds only, and an answer that comes
later is for nobody.
"""

import logging

from services.history.context import PromptTooLong
from services.history.lookup import Missing, find
from services.history.ports import Outgoing, Ports
from services.history.replies import rejection, reply
from services.history.retry import TRANSIENT
from services.history.turns import Refusal, assembled, refused, too_long
from shared.records import (
    CountInput,
    Deleted,
    EraseResponse,
    GetResponse,
    InputCounted,
    Query,
    Requested,
    ResponseErased,
    ResponseFound,
)

log = logging.getLogger(__name__)


async def get_response(query: GetResponse, ports: Ports) -> list[Outgoing]:
    """Answer with the ended response, from the log if the recorder is a moment behind; else 404.

    A response that still runs is the gateway's to show: it follows the log itself.
    """
    try:
        found = await find(ports, query.tenant, query.response_id)
    except TRANSIENT as error:
        return _unavailable(query, error)
    if isinstance(found, Missing):
        message = f"Response with id '{query.response_id}' not found."
        return [rejection(query.reply_to, query.correlation_id, 404, "response_not_found", message)]
    answer = ResponseFound(
        gateway=query.reply_to.gateway,
        correlation_id=query.correlation_id,
        accepted=found.accepted,
        terminal=found.terminal,
    )
    return [reply(query.reply_to, answer)]


async def erase_response(query: EraseResponse, ports: Ports) -> list[Outgoing]:
    """Forget the response as the recorder will once more when it gets to its `deleted`.

    Asked for by itself, because the recorder may be behind: nobody may go on from a response that its tenant was told
    is gone.
    """
    try:
        await ports.store.record([Deleted(response_id=query.response_id, tenant=query.tenant)])
    except TRANSIENT as error:
        return _unavailable(query, error)
    answer = ResponseErased(gateway=query.reply_to.gateway, correlation_id=query.correlation_id)
    return [reply(query.reply_to, answer)]


async def count_input(query: CountInput, ports: Ports) -> list[Outgoing]:
    """Answer with the prompt's tokens as `request_with_context` would count them; a prompt may be too long here."""
    request = Requested(
        response_id=query.correlation_id,
        tenant=query.tenant,
        spec=query.spec,
        created_ms=ports.clock_ms(),
        deadline_ms=query.deadline_ms,
        input_tokens=0,
    )
    try:
        outcome = await assembled(request, ports)
    except TRANSIENT as error:
        return _unavailable(query, error)
    if isinstance(outcome, PromptTooLong) and query.spec.truncation == "auto":
        outcome = too_long(outcome)
    if isinstance(outcome, Refusal):
        return [refused(query.reply_to, query.correlation_id, outcome)]
    answer = InputCounted(
        gateway=query.reply_to.gateway, correlation_id=query.correlation_id, input_tokens=outcome.input_tokens
    )
    return [reply(query.reply_to, answer)]


def _unavailable(query: Query, error: Exception) -> list[Outgoing]:
    log.warning("%s cannot be answered: %s", query.subject, error)
    message = "The history of responses does not answer. Try again."
    return [rejection(query.reply_to, query.correlation_id, 503, "server_error", message)]
