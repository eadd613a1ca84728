"""`item_reference` in an input: an item that a client has of us, named instead of sent back.

The item of an answer is named after its response, so that the response is found without any table of items. In a
conversation every item can be named. Others have no response in their name: a request's own items are to be sent, or
continued by `previous_response_id`.
"""

import asyncio

from services.gateway.api.input_messages import InputItems, InputMessage, ItemReference, TextPart
from services.gateway.api.parts import Parts
from services.gateway.auth import Caller
from services.gateway.errors import ApiError, bad_request, item_not_found
from services.gateway.lookup import Lookup
from shared.records import Failed, Item

MAX_REFERENCES = 128
"""In one input: each may be a look into the log or the store. A longer conversation has `previous_response_id`."""


async def resolve(
    parts: Parts, caller: Caller, given: str | InputItems | None, conversation: str | None = None
) -> str | InputItems | None:
    """The `input` with each reference's item in its place: an item of the `conversation`, or any answer.

    Raises ApiError 400 for too many, 404 for what is neither, of the caller's tenant (as for responses: unknown,
    somebody else's, not stored and deleted are the same), 503.
    """
    if given is None or isinstance(given, str):
        return given
    return await resolve_items(parts, caller, given, "input", conversation)


async def resolve_items(
    parts: Parts, caller: Caller, given: InputItems, name: str, conversation: str | None = None
) -> InputItems:
    """The same for the items in the field `name`."""
    wanted = [item.id for item in given if isinstance(item, ItemReference)]
    if not wanted:
        return given
    if len(wanted) > MAX_REFERENCES:
        message = f"{len(wanted)} items are referenced, and at most {MAX_REFERENCES} may be in one request."
        raise bad_request(f"{message} Continue the last response by 'previous_response_id'.", param=name)
    found = await asyncio.gather(*(_referenced(parts, caller, item_id, name, conversation) for item_id in wanted))
    items = dict(zip(wanted, found, strict=True))
    return [items[item.id] if isinstance(item, ItemReference) else item for item in given]


async def _referenced(parts: Parts, caller: Caller, item_id: str, name: str, conversation: str | None) -> InputMessage:
    if conversation is not None:
        try:
            return _said(await parts.conversations.item(caller, conversation, item_id))
        except ApiError as error:
            if error.status != 404:
                raise
    return await _answer(parts.lookup, caller, item_id, name)


def _said(item: Item) -> InputMessage:
    kind = "output_text" if item.role == "assistant" else "input_text"
    return InputMessage(role=item.role, content=[TextPart(type=kind, text=text) for text in item.parts], id=item.id)


async def _answer(lookup: Lookup, caller: Caller, item_id: str, name: str) -> InputMessage:
    prefix, _, digits = item_id.partition("_")
    if prefix != "msg":
        raise item_not_found(item_id, param=name)
    try:
        fold = (await lookup.find(caller, f"resp_{digits}")).fold
    except ApiError as error:
        raise item_not_found(item_id, param=name) if error.status == 404 else error from error
    terminal, silent = fold.terminal, fold.accepted is None or not fold.accepted.spec.generate
    if terminal is None or isinstance(terminal, Failed) or silent:
        raise item_not_found(item_id, param=name)
    return InputMessage(role="assistant", content=terminal.text, id=item_id)
