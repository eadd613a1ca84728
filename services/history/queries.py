"""Questions to the store: `history.queries` in, `gateway.replies` out."""

import logging

from services.history.lookup import Missing, find
from services.history.ports import Outgoing, Ports
from services.history.replies import rejection, reply
from services.history.retry import TRANSIENT
from shared.records import GetResponse, ResponseFound

log = logging.getLogger(__name__)


async def get_response(query: GetResponse, ports: Ports) -> list[Outgoing]:
    """Answer with the ended response, from the log if the recorder is a moment behind; else 404.

    A response that still runs is the gateway's to show: it follows the log itself. While neither store nor log
    answers, the asker hears so at once: it waits for seconds only, and an answer that comes later is for nobody.
    """
    try:
        found = await find(ports, query.tenant, query.response_id)
    except TRANSIENT as error:
        log.warning("%s cannot be looked up: %s", query.response_id, error)
        message = "The history of responses does not answer. Try again."
        return [rejection(query.reply_to, query.correlation_id, 503, "server_error", message)]
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
