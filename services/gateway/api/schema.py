"""What POST /v1/responses and `response.create` accept: strict types, every field named when it is refused.

Three kinds of fields: those that we serve (`CreateResponse`), those of OpenAI that we know and do not serve (refused
by name unless they say nothing: `_NEUTRAL`), and unknown ones (refused by name).
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag, ValidationError

from services.gateway.api.body import json_name
from services.gateway.api.errors import ApiError, bad_request
from shared.records import Message, ResponseSpec, Sampling
from shared.records.base import Role


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class TextPart(_Strict):
    """A part of a message. Annotations and logprobs come when a client sends our own output back: ignored."""

    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: list[Any] = []
    logprobs: list[Any] | None = None


def _shape(value: Any) -> str:
    return "#text" if isinstance(value, str) else "#items"


Content = Annotated[
    Annotated[str, Tag("#text")] | Annotated[list[TextPart], Tag("#items")],
    Discriminator(_shape),
]


class InputMessage(_Strict):
    """One item of `input`. `id`, `status` and `phase` come with output that is sent back."""

    type: Literal["message"] = "message"
    role: Role
    content: Content
    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None
    phase: str | None = None

    def message(self) -> Message:
        """The record's form: the text in the parts in which it came."""
        parts = [self.content] if isinstance(self.content, str) else [part.text for part in self.content]
        return Message(role=self.role, parts=parts, id=self.id)


class TextFormat(_Strict):
    """Plain text is the only format."""

    type: Literal["text"] = "text"


class TextConfig(_Strict):
    """`text`: how the answer looks."""

    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None


class StreamOptions(_Strict):
    """`stream_options`: accepted; obfuscation is never added."""

    include_obfuscation: bool | None = None


Input = Annotated[
    Annotated[str, Tag("#text")] | Annotated[list[InputMessage], Tag("#items")],
    Discriminator(_shape),
]
MetadataKey = Annotated[str, StringConstraints(max_length=64)]
MetadataValue = Annotated[str, StringConstraints(max_length=512)]
Identifier = Annotated[str, StringConstraints(max_length=256)]


class CreateResponse(_Strict):
    """A request for a response, as far as its form goes. Fields are named as in OpenAI's reference."""

    model: str
    input: Input
    instructions: str | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_output_tokens: int | None = Field(None, ge=1)
    metadata: dict[MetadataKey, MetadataValue] | None = Field(None, max_length=16)
    store: bool | None = None
    background: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    previous_response_id: Identifier | None = None
    truncation: Literal["auto", "disabled"] | None = None
    text: TextConfig | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"] | None = None
    user: Identifier | None = None
    safety_identifier: Identifier | None = None
    prompt_cache_key: Identifier | None = None

    def spec(self) -> ResponseSpec:
        """The normalised request. The tier is the one that serves it: there is one, `default`."""
        return ResponseSpec(
            model=self.model,
            input=self._messages(),
            instructions=self.instructions,
            previous_response_id=self.previous_response_id,
            sampling=Sampling(
                temperature=1.0 if self.temperature is None else float(self.temperature),
                top_p=1.0 if self.top_p is None else float(self.top_p),
                max_output_tokens=self.max_output_tokens,
            ),
            metadata=dict(self.metadata or {}),
            store=self.store is not False,
            background=self.background is True,
            truncation=self.truncation or "disabled",
            prompt_cache_key=self.prompt_cache_key,
            safety_identifier=self.safety_identifier,
            user=self.user,
        )

    def _messages(self) -> list[Message]:
        if isinstance(self.input, str):
            return [Message(role="user", parts=[self.input])]
        return [item.message() for item in self.input]


def parse_create(body: dict[str, Any]) -> CreateResponse:
    """The request in `body`. Raises ApiError 400 that names the first field that is wrong."""
    served = {name: value for name, value in body.items() if name not in _NEUTRAL}
    for name, is_neutral in _NEUTRAL.items():
        if name in body and not is_neutral(body[name]):
            raise bad_request(f"'{name}' is not supported by this server.", code="unsupported_parameter", param=name)
    try:
        request = CreateResponse.model_validate(served)
    except ValidationError as error:
        raise _translate(error) from error
    return _consistent(request)


def _consistent(request: CreateResponse) -> CreateResponse:
    """What no single field can tell."""
    if not any(message.text.strip() for message in request._messages()):
        raise bad_request("Invalid 'input': it must hold some text.", code="empty_input", param="input")
    if request.background and request.store is False:
        raise bad_request("'background' requires 'store' to be true: its result is fetched later.", param="background")
    return request


def _nothing(value: Any) -> bool:
    return value is None or value in ([], {})


def _all_null(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and all(inner is None for inner in value.values()))


def _one_of(*values: Any) -> Callable[[Any], bool]:
    return lambda value: any(type(value) is type(known) and value == known for known in values)


_NEUTRAL: dict[str, Callable[[Any], bool]] = {
    "access_programs": _nothing,
    "context_management": _nothing,
    "conversation": _nothing,
    "generate": _one_of(None, True),
    "image": _nothing,
    "include": _nothing,
    "max_tool_calls": lambda value: value is None or type(value) is int,
    "moderation": _nothing,
    "parallel_tool_calls": _one_of(None, True, False),
    "prompt": _nothing,
    "prompt_cache_options": _nothing,
    "prompt_cache_retention": _nothing,
    "reasoning": _all_null,
    "tool_choice": _one_of(None, "auto", "none"),
    "tools": _nothing,
    "top_logprobs": _one_of(None, 0),
}
"""Fields of OpenAI's that we do not serve, and when their value asks for nothing."""


def _translate(error: ValidationError) -> ApiError:
    """pydantic's first complaint in OpenAI's words."""
    issue: Any = error.errors(include_url=False)[0]
    kind, param, given = issue["type"], _param(issue["loc"]), issue["input"]
    if kind in _EXPECTED:
        expected = "a string or an array" if issue["loc"][-1] == "#items" else _EXPECTED[kind]
        message = f"Invalid type for '{param}': expected {expected}, but got {json_name(given)}."
        return bad_request(message, code="invalid_type", param=param)
    code, text = _COMPLAINTS.get(kind, ("invalid_value", f"Invalid '{{param}}': {issue['msg']}."))
    size = len(given) if isinstance(given, str | list | dict) else 0
    context = {"param": param, "given": repr(given)[:80], "size": f"{size:,}", **issue.get("ctx", {})}
    return bad_request(text.format(**context), code=code, param=param)


_EXPECTED = {
    "string_type": "a string",
    "float_type": "a number",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "bool_type": "a boolean",
    "list_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
}
_COMPLAINTS: dict[str, tuple[str, str]] = {
    "missing": ("missing_required_parameter", "Missing required parameter: '{param}'."),
    "extra_forbidden": ("unknown_parameter", "Unknown parameter: '{param}'."),
    "literal_error": ("invalid_value", "Invalid value for '{param}': {given}. Supported values are: {expected}."),
    "greater_than_equal": ("below_min_value", "Invalid '{param}': expected a value >= {ge:g}, but got {given}."),
    "greater_than": ("below_min_value", "Invalid '{param}': expected a value > {gt:g}, but got {given}."),
    "less_than_equal": ("above_max_value", "Invalid '{param}': expected a value <= {le:g}, but got {given}."),
    "string_too_long": ("above_max_length", "Invalid '{param}': {size} characters, at most {max_length} are allowed."),
    "too_long": ("above_max_length", "Invalid '{param}': {size} entries, at most {max_length} are allowed."),
}


def _param(location: tuple[int | str, ...]) -> str:
    """`("input", "#items", 0, "role")` → `input[0].role`."""
    path = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        elif not step.startswith("#") and step != "[key]":
            path += f".{step}" if path else step
    return path
