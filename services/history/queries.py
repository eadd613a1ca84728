"""Questions about responses: `history.queries` in, `gateway.replies` out."""

from services.history.context import PromptTooLong
from services.history.locks import freed
from services.history.lookup import Missing, find
from services.history.ports import Ports
from services.history.replies import Refusal, not_found, refused, reply
from services.history.telling import of_responses
from services.history.turns import assembled, too_long
from shared.control import Outgoing
from shared.records import (
    CountInput,
    Deleted,
    EraseResponse,
    GetResponse,
    InputCounted,
    Requested,
    ResponseErased,
    ResponseFound,
)


async def get_response(query: GetResponse, ports: Ports) -> list[Outgoing]:
    """Answer with the ended response, from the log if the recorder is a moment behind; else 404.

    A response that still runs is the gateway's to show: it follows the log itself.
    """
    found = await find(ports, query.tenant, query.response_id)
    if isinstance(found, Missing):
        return [refused(query.reply_to, query.correlation_id, not_found("Response", query.response_id))]
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
    recorded = await ports.store.record([Deleted(response_id=query.response_id, tenant=query.tenant)])
    answer = ResponseErased(gateway=query.reply_to.gateway, correlation_id=query.correlation_id)
    told = [outgoing for _, outgoing in of_responses(recorded, {query.response_id: query.tenant})]
    return [*told, reply(query.reply_to, answer)]


async def count_input(query: CountInput, ports: Ports) -> list[Outgoing]:
    """Answer with the prompt's tokens as `request_with_context` would count them; a prompt may be too long here.

    A turn whose end its client has heard of counts, though the recorder may be behind; one that still runs does not.
    """
    if query.spec.conversation is not None:
        await freed(ports, query.tenant, query.spec.conversation)
    request = Requested(
        response_id=query.correlation_id,
        tenant=query.tenant,
        spec=query.spec,
        created_ms=ports.clock_ms(),
        deadline_ms=query.deadline_ms,
        input_tokens=0,
    )
    outcome = await assembled(request, ports)
    if isinstance(outcome, PromptTooLong) and query.spec.truncation == "auto":
        outcome = too_long(outcome)
    if isinstance(outcome, Refusal):
        return [refused(query.reply_to, query.correlation_id, outcome)]
    answer = InputCounted(
        gateway=query.reply_to.gateway, correlation_id=query.correlation_id, input_tokens=outcome.input_tokens
    )
    return [reply(query.reply_to, answer)]
