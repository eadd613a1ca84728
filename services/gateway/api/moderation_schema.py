"""What a client may ask of moderation: the body of POST /v1/moderations, and `moderation` inside other requests."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, StringConstraints, Tag
from pydantic_core import PydanticCustomError

from services.gateway.api.validation import Strict, parse, served_only, shape
from services.gateway.errors import bad_request
from shared.records import ModerationMode, ModerationWish

MAX_TEXTS = 64
MAX_CHARACTERS = 1 << 16
"""Of all texts together: what the default classifier judges on one busy core well before the question's deadline."""


def _no_tokens(value: Any) -> Any:
    if isinstance(value, list) and any(isinstance(item, int | list) and not isinstance(item, bool) for item in value):
        raise PydanticCustomError("unserved", "{message}", {"message": "send text, not tokens"})
    return value


def _item_shape(value: Any) -> str:
    return "#text" if isinstance(value, str) else "#object"


ModelName = Annotated[str, StringConstraints(max_length=256)]
_Text = Annotated[str, StringConstraints(min_length=1)]
_part_type = served_only(("text",), {"image_url": "only text is judged here"})


class ModerationTextPart(Strict):
    """Words."""

    type: Annotated[str, AfterValidator(_part_type)]
    text: _Text


_Item = Annotated[
    Annotated[_Text, Tag("#text")] | Annotated[ModerationTextPart, Tag("#object")],
    Discriminator(_item_shape),
]
_Items = Annotated[list[_Item], Field(min_length=1, max_length=MAX_TEXTS), BeforeValidator(_no_tokens)]


class CreateModeration(Strict):
    """Texts to judge. A list of strings is as many texts; the parts of a list of parts are one, as with OpenAI."""

    input: Annotated[Annotated[_Text, Tag("#text")] | Annotated[_Items, Tag("#items")], Discriminator(shape)]
    model: ModelName | None = None

    @property
    def texts(self) -> list[str]:
        """What gets a result each."""
        given: Sequence[str | ModerationTextPart] = [self.input] if isinstance(self.input, str) else self.input
        texts = [item for item in given if isinstance(item, str)]
        parts = [item.text for item in given if isinstance(item, ModerationTextPart)]
        return ["\n".join(parts)] if parts else texts


def parse_moderation(body: dict[str, Any]) -> CreateModeration:
    """The request in `body`. Raises ApiError 400 that names the first field that is wrong."""
    command = parse(CreateModeration, body, {})
    if not isinstance(command.input, str) and len({type(item) for item in command.input}) > 1:
        raise bad_request("Invalid 'input': strings and parts cannot stand in one list.", param="input")
    size = sum(map(len, command.texts))
    if size > MAX_CHARACTERS:
        message = f"Invalid 'input': {size:,} characters, at most {MAX_CHARACTERS:,} are judged at once."
        raise bad_request(message, code="above_max_length", param="input")
    return command


class ModerationStage(Strict):
    """What is done about what would be flagged: it is told (`score`), or refused and cut (`block`)."""

    mode: Literal["score", "block"]


class ModerationPolicy(Strict):
    """Input and output apart; whatever is not named is `score`."""

    input: ModerationStage | None = None
    output: ModerationStage | None = None


class Moderation(Strict):
    """`moderation` of a request that is answered: what it asks for beyond the operator's policy."""

    model: ModelName
    policy: ModerationPolicy | None = None

    def wish(self) -> ModerationWish:
        """The record's form."""
        policy = self.policy or ModerationPolicy()
        return ModerationWish(model=self.model, input=_mode(policy.input), output=_mode(policy.output))


def _mode(stage: ModerationStage | None) -> ModerationMode:
    return "score" if stage is None else stage.mode
