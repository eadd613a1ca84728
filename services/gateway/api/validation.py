"""Bodies against strict models: what is wrong is named in OpenAI's words.

Three kinds of fields: those of the model, those of OpenAI's that we know and do not serve (refused by name unless
they ask for nothing: `Neutral`), and unknown ones (refused by name).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError

from services.gateway.api.body import json_name
from services.gateway.errors import ApiError, bad_request

Neutral = Mapping[str, Callable[[Any], bool]]
"""Fields that are known and not served, and when their value asks for nothing."""

M = TypeVar("M", bound=BaseModel)

NO_TOOLS = "its models call no tools"
TEXT_ONLY = "its models read and write text only"
NO_REASONING = "its models do not reason apart from their answer"
PLAIN_TEXT = "answers are plain text"
WHY: Mapping[str, str] = {
    "audio": TEXT_ONLY,
    "function_call": NO_TOOLS,
    "functions": NO_TOOLS,
    "generate": "it is for WebSockets only",
    "image": TEXT_ONLY,
    "modalities": TEXT_ONLY,
    "prompt": "send the prompt's text as 'input'",
    "reasoning": NO_REASONING,
    "reasoning_effort": NO_REASONING,
    "response_format": PLAIN_TEXT,
    "tool_choice": NO_TOOLS,
    "tools": NO_TOOLS,
    "web_search_options": NO_TOOLS,
}
"""Why a known field is not served, where that helps who asked for it."""


class Strict(BaseModel):
    """No conversions, no unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


def shape(value: Any) -> str:
    """The tag of a union of a string and an array."""
    return "#text" if isinstance(value, str) else "#items"


def reference_shape(value: Any) -> str:
    """The tag of a union of an id and an object that holds one."""
    return "#text" if isinstance(value, str) else "#object"


def parse(model: type[M], body: dict[str, Any], neutral: Neutral) -> M:
    """`body` as a `model`. Raises ApiError 400 that names the first field that is wrong."""
    served = {name: value for name, value in body.items() if name not in neutral}
    for name, asks_nothing in neutral.items():
        if name in body and not asks_nothing(body[name]):
            message = f"'{name}' is not supported by this server{_because(WHY.get(name))}."
            raise bad_request(message, code="unsupported_parameter", param=name)
    try:
        return model.model_validate(served)
    except ValidationError as error:
        raise _translate(error) from error


def served_only(served: Sequence[str], unserved: Mapping[str, str]) -> Callable[[str | None], str | None]:
    """A validator of a `type`: those that we know and do not serve are refused with the reason (`unserved`)."""

    def check(given: str | None) -> str | None:
        if given is None or given in served:
            return given
        if given in unserved:
            message = f"'{given}' is not supported by this server{_because(unserved[given])}"
            raise PydanticCustomError("unserved", "{message}", {"message": message})
        expected = " or ".join(f"'{name}'" for name in served)
        raise PydanticCustomError("literal_error", "{expected}", {"expected": expected})

    return check


def _because(why: str | None) -> str:
    return "" if why is None else f": {why}"


def is_nothing(value: Any) -> bool:
    """Null or empty."""
    return value is None or value in ([], {})


def all_null(value: Any) -> bool:
    """Null, or an object of nulls."""
    return value is None or (isinstance(value, dict) and all(inner is None for inner in value.values()))


def one_of(*values: Any) -> Callable[[Any], bool]:
    """Exactly one of these values, of the same type."""
    return lambda value: any(type(value) is type(known) and value == known for known in values)


def _translate(error: ValidationError) -> ApiError:
    """pydantic's first complaint in OpenAI's words."""
    issue: Any = error.errors(include_url=False)[0]
    kind, param, given = issue["type"], _param(issue["loc"]), issue["input"]
    if kind in _EXPECTED:
        expected = _EITHER.get(issue["loc"][-1], _EXPECTED[kind])
        message = f"Invalid type for '{param}': expected {expected}, but got {json_name(given)}."
        return bad_request(message, code="invalid_type", param=param)
    code, text = _COMPLAINTS.get(kind, ("invalid_value", "Invalid '{param}': {why}."))
    size = len(given) if isinstance(given, str | list | dict) else 0
    context = {"param": param, "given": repr(given)[:80], "size": f"{size:,}", "why": issue["msg"]}
    return bad_request(text.format(**context, **issue.get("ctx", {})), code=code, param=param)


_EITHER = {"#items": "a string or an array", "#object": "a string or an object"}
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
    "unserved_field": ("unsupported_parameter", "'{param}' is not supported by this server."),
    "unserved": ("unsupported_value", "Unsupported value for '{param}': {message}."),
    "string_too_short": ("below_min_length", "Invalid '{param}': {size} characters, expected at least {min_length}."),
    "missing": ("missing_required_parameter", "Missing required parameter: '{param}'."),
    "extra_forbidden": ("unknown_parameter", "Unknown parameter: '{param}'."),
    "literal_error": ("invalid_value", "Invalid value for '{param}': {given}. Supported values are: {expected}."),
    "greater_than_equal": ("below_min_value", "Invalid '{param}': expected a value >= {ge:g}, but got {given}."),
    "less_than_equal": ("above_max_value", "Invalid '{param}': expected a value <= {le:g}, but got {given}."),
    "string_too_long": ("above_max_length", "Invalid '{param}': {size} characters, at most {max_length} are allowed."),
    "too_short": ("below_min_length", "Invalid '{param}': {size} entries, expected at least {min_length}."),
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
