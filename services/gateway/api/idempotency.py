"""`Idempotency-Key`: a client's name for a request, under which it may send it again without a second answer.

Neither SDK of OpenAI's sends it by itself (`idempotency_key` of their request options has no header unless one is set);
whoever does, sends the same one with every retry.
"""

from hashlib import sha256
from typing import Any

import msgspec
from starlette.requests import Request

from services.gateway.auth import Caller
from services.gateway.errors import bad_request
from services.gateway.ledger import Repeatable

_HEADER = "Idempotency-Key"
_MAX_LENGTH = 255
_HOW_IT_TRAVELS = frozenset({"stream", "stream_options"})
"""Fields that say how an answer is sent, not what is asked: a client whose stream broke may ask for the whole."""


def repeatable_of(request: Request, caller: Caller, body: dict[str, Any]) -> Repeatable | None:
    """The request's key and what is asked under it, as digests; None without a key. Raises ApiError 400.

    The same key of another tenant is another one; the same body at another path is another request.
    """
    key = request.headers.get(_HEADER)
    if key is None:
        return None
    if not 0 < len(key) <= _MAX_LENGTH or not (key.isascii() and key.isprintable()):
        message = f"Invalid '{_HEADER}': 1 to {_MAX_LENGTH} printable ASCII characters are allowed."
        raise bad_request(message, param=_HEADER)
    asked = {name: value for name, value in body.items() if name not in _HOW_IT_TRAVELS}
    fingerprint = msgspec.json.encode([request.url.path, asked], order="deterministic")
    return Repeatable(_digest(f"{caller.tenant}\0{key}".encode()), _digest(fingerprint))


def _digest(content: bytes) -> str:
    """128 bits: enough that nobody finds two requests alike."""
    return sha256(content).hexdigest()[:32]
