"""Questions to the store: `history.queries` in, `gateway.replies` out."""

from services.history.lookup import Missing, find
from services.history.ports import Outgoing, Ports
from services.history.replies import rejection, reply
from shared.records import GetResponse, ResponseFound


async def get_response(query: GetResponse, ports: Ports) -> list[Outgoing]:
    """Answer with the ended response, from the log if the recorder is a moment behind; else 404.

    A response that still runs is the gateway's to show: it follows the log itself.
    """
    found = await find(ports, query.tenant, query.response_id)
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
