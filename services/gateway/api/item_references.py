"""`item_reference` in an input: an answer that a client has of us, named instead of sent back.

The item of an answer is named after its response, so that the response is found without any table of items. Other
items have no response in their name: the request's own are to be sent, or continued by `previous_response_id`.
"""

import asyncio

from services.gateway.api.input_messages import InputItems, InputMessage, ItemReference
from services.gateway.auth import Caller
from services.gateway.errors import ApiError, bad_request
from services.gateway.lookup import Lookup
from shared.records import Failed

MAX_REFERENCES = 128
"""In one input: each may be a look into the log or the store. A longer conversation has `previous_response_id`."""


async def resolve(lookup: Lookup, caller: Caller, given: str | InputItems | None) -> str | InputItems | None:
    """The input with each reference's item in its place.

    Raises ApiError 400 for too many, 404 for what is no answer of the caller's tenant (as for responses: unknown,
    somebody else's, not stored and deleted are the same), 503.
    """
    if given is None or isinstance(given, str):
        return given
    wanted = [item.id for item in given if isinstance(item, ItemReference)]
    if not wanted:
        return given
    if len(wanted) > MAX_REFERENCES:
        message = f"{len(wanted)} items are referenced, and at most {MAX_REFERENCES} may be in one request."
        raise bad_request(f"{message} Continue the last response by 'previous_response_id'.", param="input")
    found = await asyncio.gather(*(_answer(lookup, caller, item_id) for item_id in wanted))
    answers = dict(zip(wanted, found, strict=True))
    return [answers[item.id] if isinstance(item, ItemReference) else item for item in given]


async def _answer(lookup: Lookup, caller: Caller, item_id: str) -> InputMessage:
    prefix, _, digits = item_id.partition("_")
    if prefix != "msg":
        raise _item_not_found(item_id)
    try:
        fold = (await lookup.find(caller, f"resp_{digits}")).fold
    except ApiError as error:
        raise _item_not_found(item_id) if error.status == 404 else error from error
    terminal, silent = fold.terminal, fold.accepted is None or not fold.accepted.spec.generate
    if terminal is None or isinstance(terminal, Failed) or silent:
        raise _item_not_found(item_id)
    return InputMessage(role="assistant", content=terminal.text, id=item_id)


def _item_not_found(item_id: str) -> ApiError:
    return ApiError(404, f"Item with id '{item_id[:80]}' not found.", param="input")
