"""The `input` of a request: a text, or the messages of a conversation. Also what our own output looks like as input."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, StringConstraints, Tag

from services.gateway.api.validation import NO_REASONING, NO_TOOLS, TEXT_ONLY, Strict, served_only, shape
from services.gateway.errors import bad_request
from shared.records import Message
from shared.records.base import Role

ItemId = Annotated[str, StringConstraints(min_length=1, max_length=256)]

_part_type = served_only(
    ("input_text", "output_text", "refusal", "text"),
    {
        "input_image": TEXT_ONLY,
        "input_file": TEXT_ONLY,
        "input_audio": TEXT_ONLY,
        "image_url": TEXT_ONLY,
        "computer_screenshot": TEXT_ONLY,
        "reasoning_text": NO_REASONING,
        "summary_text": NO_REASONING,
    },
)
_item_type = served_only(
    ("message",),
    {
        "reasoning": NO_REASONING,
        "compaction": "it compacts no context",
        "function_call": NO_TOOLS,
        "function_call_output": NO_TOOLS,
        "custom_tool_call": NO_TOOLS,
        "custom_tool_call_output": NO_TOOLS,
        "mcp_call": NO_TOOLS,
        "web_search_call": NO_TOOLS,
        "file_search_call": NO_TOOLS,
        "image_generation_call": NO_TOOLS,
    },
)


class TextPart(Strict):
    """Words. Annotations and logprobs come when a client sends our own output back: no prompt holds them."""

    type: Annotated[str, AfterValidator(_part_type)]
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None

    @property
    def words(self) -> str:
        """What was said."""
        return self.text


class RefusalPart(Strict):
    """What an assistant said, like any text."""

    type: Literal["refusal"]
    refusal: str

    @property
    def words(self) -> str:
        """What was said."""
        return self.refusal


def part_shape(value: Any) -> str:
    """The tag of a union of a text and a refusal."""
    return "#refusal" if isinstance(value, dict) and value.get("type") == "refusal" else "#text"


Part = Annotated[
    Annotated[TextPart, Tag("#text")] | Annotated[RefusalPart, Tag("#refusal")],
    Discriminator(part_shape),
]
Content = Annotated[
    Annotated[str, Tag("#text")] | Annotated[list[Part], Tag("#items")],
    Discriminator(shape),
]


class InputMessage(Strict):
    """One item of `input`. `id`, `status` and `phase` come with output that is sent back."""

    type: Annotated[str | None, AfterValidator(_item_type)] = "message"
    role: Role
    content: Content
    id: ItemId | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None
    phase: Literal["commentary", "final_answer"] | None = None

    def message(self) -> Message:
        """The record's form: the text in the parts in which it came."""
        parts = [self.content] if isinstance(self.content, str) else [part.words for part in self.content]
        return Message(role=self.role, parts=parts, id=self.id)


class ItemReference(Strict):
    """An answer of an earlier response of the same tenant, named by its item's id instead of sent back."""

    type: Literal["item_reference"]
    id: ItemId


def _item_shape(value: Any) -> str:
    return "#reference" if isinstance(value, dict) and value.get("type") == "item_reference" else "#message"


Item = Annotated[
    Annotated[InputMessage, Tag("#message")] | Annotated[ItemReference, Tag("#reference")],
    Discriminator(_item_shape),
]
InputItems = list[InputMessage | ItemReference]
Input = Annotated[
    Annotated[str, Tag("#text")] | Annotated[list[Item], Tag("#items")],
    Discriminator(shape),
]


def messages_of(given: str | InputItems | None) -> list[Message]:
    """The messages of an input, less references that nobody resolved.

    Raises ApiError 400 for what no single field can tell.
    """
    if given is None:
        return []
    if isinstance(given, str):
        return [Message(role="user", parts=[given])]
    check_items(given, "input")
    return [item.message() for item in given if isinstance(item, InputMessage)]


def holds_text(given: str | InputItems) -> bool:
    """Whether there is anything to answer to; of an item that is only named, its text is not known yet."""
    named = not isinstance(given, str) and any(isinstance(item, ItemReference) for item in given)
    return named or any(message.text.strip() for message in messages_of(given))


def check_items(items: InputItems, name: str) -> None:
    """What no single field of the items in the field `name` can tell. Raises ApiError 400."""
    for index, item in enumerate(items):
        _check_role(f"{name}[{index}]", item)
    _check_ids(items, name)


def _check_role(where: str, item: InputMessage | ItemReference) -> None:
    """What an assistant says is output; nobody else says it."""
    if isinstance(item, ItemReference) or item.role == "assistant" or isinstance(item.content, str):
        return
    for place, part in enumerate(item.content):
        if part.type in ("output_text", "refusal"):
            param = f"{where}.content[{place}].type"
            message = f"Invalid value for '{param}': '{part.type}' is for the role 'assistant', not '{item.role}'."
            raise bad_request(f"{message} Use 'input_text'.", param=param)


def _check_ids(items: InputItems, name: str) -> None:
    """Lists of items are paged by their ids."""
    seen: set[str] = set()
    for index, item in enumerate(items):
        if item.id is not None and item.id in seen:
            message = f"Duplicate item found with id '{item.id[:80]}'. Remove duplicate items from your input."
            raise bad_request(message, param=f"{name}[{index}].id")
        seen.add(item.id or "")
