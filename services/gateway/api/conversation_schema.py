"""What the endpoints of conversations accept: strict types, every field named when it is refused."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from services.gateway.api import input_messages
from services.gateway.api.common_schema import Metadata
from services.gateway.api.input_messages import InputItems, InputMessage, check_items
from services.gateway.api.validation import Strict, parse
from shared.ids import new_id
from shared.records import Item

MAX_ITEMS_AT_ONCE = 20

_Items = Annotated[list[input_messages.Item], Field(max_length=MAX_ITEMS_AT_ONCE)]


class CreateConversation(Strict):
    """A conversation that begins, empty or with items."""

    items: _Items | None = None
    metadata: Metadata | None = None


class UpdateConversation(Strict):
    """The metadata that a conversation has from now on; null: none."""

    metadata: Metadata | None


class CreateItems(Strict):
    """Messages for the end of a conversation. In it they get names of their own, also where they bring an `id`."""

    items: Annotated[_Items, Field(min_length=1)]


def parse_conversation(body: Mapping[str, Any]) -> CreateConversation:
    """The conversation in `body`. Raises ApiError 400 that names the first field that is wrong, as the others do."""
    created = parse(CreateConversation, dict(body), {})
    check_items(created.items or [], "items")
    return created


def parse_update(body: Mapping[str, Any]) -> UpdateConversation:
    """The metadata in `body`."""
    return parse(UpdateConversation, dict(body), {})


def parse_items(body: Mapping[str, Any]) -> CreateItems:
    """The items in `body`."""
    added = parse(CreateItems, dict(body), {})
    check_items(added.items, "items")
    return added


def items_of(given: InputItems) -> list[Item]:
    """The records' form, each by a name of its own. What was cut stays so; an item is never in progress."""
    return [_item(message) for message in given if isinstance(message, InputMessage)]


def _item(given: InputMessage) -> Item:
    message = given.message()
    cut = given.role == "assistant" and given.status == "incomplete"
    return Item(
        id=new_id("msg"),
        role=message.role,
        parts=message.parts,
        status="incomplete" if cut else "completed",
    )
