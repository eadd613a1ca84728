"""`conversation` in a request: the one that it goes on in, by its id or by an object that holds it."""

from typing import Annotated

from pydantic import Discriminator, Tag

from services.gateway.api.common_schema import Identifier
from services.gateway.api.validation import Strict, reference_shape
from services.gateway.errors import bad_request, conversation_not_found
from shared.ids import is_id


class ConversationObject(Strict):
    """As it stands in a Response."""

    id: Identifier


ConversationReference = Annotated[
    Annotated[Identifier, Tag("#text")] | Annotated[ConversationObject, Tag("#object")],
    Discriminator(reference_shape),
]


def conversation_of(given: str | ConversationObject | None, previous_response_id: str | None) -> str | None:
    """The id that is meant. Raises ApiError 400 beside a `previous_response_id`, 404 for what cannot be an id."""
    if given is None:
        return None
    if previous_response_id is not None:
        raise bad_request(
            "Mutually exclusive parameters: 'previous_response_id' and 'conversation'. Send one of them.",
            code="mutually_exclusive_parameters",
        )
    conversation_id = given if isinstance(given, str) else given.id
    if not is_id("conv", conversation_id):
        raise conversation_not_found(conversation_id, param="conversation")
    return conversation_id
