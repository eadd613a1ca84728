"""Events of a response, as the SDK parses them."""

from types import SimpleNamespace
from typing import Any


def created(number: int = 0) -> Any:
    return SimpleNamespace(type="response.created", sequence_number=number, response=SimpleNamespace(id="resp_1"))


def delta(number: int, text: str) -> Any:
    return SimpleNamespace(type="response.output_text.delta", sequence_number=number, delta=text)


def ended(number: int, status: str = "completed", text: str = "", **fields: Any) -> Any:
    details = SimpleNamespace(cached_tokens=2)
    usage = SimpleNamespace(input_tokens=5, output_tokens=3, input_tokens_details=details)
    known = {"incomplete_details": None, "error": None, "usage": usage, "output_text": text, **fields}
    kind = "response.failed" if status in ("failed", "cancelled") else f"response.{status}"
    return SimpleNamespace(type=kind, sequence_number=number, response=SimpleNamespace(status=status, **known))


def error(status: int | None, code: str | None = None) -> Any:
    return SimpleNamespace(type="error", status=status, error=SimpleNamespace(code=code, message="what is wrong"))
