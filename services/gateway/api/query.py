"""What stands in the query of a URL, where everything is text."""

from typing import Any

from starlette.datastructures import QueryParams

from services.gateway.api.schema import Includable
from services.gateway.api.validation import Strict, parse
from services.gateway.errors import bad_request

_TRUE, _FALSE = ("true", "1"), ("false", "0")
_MAX_DIGITS = 18


class _Include(Strict):
    include: list[Includable]


def flag(query: QueryParams, name: str) -> bool:
    """A boolean, false without one. Raises ApiError 400."""
    value = query.get(name, "false").lower()
    if value not in _TRUE + _FALSE:
        raise bad_request(f"'{name}' must be true or false.", param=name)
    return value in _TRUE


def number(text: str) -> Any:
    """The integer in `text`; anything else as it is, for a schema to refuse."""
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() and len(digits) <= _MAX_DIGITS else text


def check_include(query: QueryParams) -> None:
    """Raises ApiError 400 for what is not served. Log probabilities are there wherever they were asked for."""
    parse(_Include, {"include": [*query.getlist("include"), *query.getlist("include[]")]}, {})


def check_obfuscation(query: QueryParams) -> None:
    """Raises ApiError 400 where events are to be padded: all readers of a response get the same bytes."""
    if flag(query, "include_obfuscation"):
        message = "'include_obfuscation' is not supported by this server: all readers of a response get the same bytes."
        raise bad_request(message, code="unsupported_parameter", param="include_obfuscation")
