"""Ids that tell time and place: UUIDv7, and for responses the partition in the `rand_a` bits (RFC 9562, 5.7).

Layout of the 128 bits of `resp_<32 hex>`::

    48 bits  unix time in milliseconds
     4 bits  version, 7
    12 bits  rand_a: the response's partition number (0..4095)
     2 bits  variant, 0b10
    62 bits  random

Because the partition stands in the id, anyone can find a response's sub-log without a lookup table, and ids
minted before partitions were added stay right.
"""

import re
import secrets
import time
from dataclasses import dataclass
from functools import lru_cache

from shared.errors import InvalidIdError

MAX_PARTITIONS = 1 << 12
_COMPLETION_PREFIX = "chatcmpl-"
_HEX_ID = re.compile(r"[0-9a-f]{32}")
_VERSION_7 = 0x7
_VARIANT = 0b10


@dataclass(frozen=True, slots=True)
class ResponseId:
    """A parsed `resp_` id: the text, its creation time in unix milliseconds and its partition number."""

    text: str
    created_ms: int
    partition: int

    @property
    def message_id(self) -> str:
        """Id of the response's one output message; derived, so that every replica names it alike."""
        return "msg_" + self.text.removeprefix("resp_")

    @property
    def completion_id(self) -> str:
        """What Chat Completions call the response; `response_id_text` leads back."""
        return _COMPLETION_PREFIX + self.text.removeprefix("resp_")


def now_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


def _uuid7_hex(unix_ms: int, rand_a: int) -> str:
    value = (unix_ms & ((1 << 48) - 1)) << 80
    value |= _VERSION_7 << 76 | rand_a << 64
    value |= _VARIANT << 62 | secrets.randbits(62)
    return f"{value:032x}"


def new_response_id(partition: int, *, unix_ms: int | None = None) -> ResponseId:
    """Mint the id of a response whose records all go to `partition` (0..4095)."""
    if not 0 <= partition < MAX_PARTITIONS:
        raise InvalidIdError(f"partition {partition} does not fit an id: must be 0..{MAX_PARTITIONS - 1}")
    created_ms = now_ms() if unix_ms is None else unix_ms
    return ResponseId(f"resp_{_uuid7_hex(created_ms, partition)}", created_ms, partition)


@lru_cache(maxsize=8192)  # every record of a stream names the same id
def parse_response_id(text: str) -> ResponseId:
    """Read time and partition from a `resp_` id. Raises InvalidIdError for anything else."""
    prefix, _, digits = text.partition("_")
    if prefix != "resp" or _HEX_ID.fullmatch(digits) is None:
        raise InvalidIdError(f"not a response id: {text[:80]!r} (expected 'resp_' and 32 hex digits)")
    value = int(digits, 16)
    if value >> 76 & 0xF != _VERSION_7 or value >> 62 & 0b11 != _VARIANT:
        raise InvalidIdError(f"not a response id of this service: {text!r} is no UUIDv7")
    return ResponseId(text, value >> 80, value >> 64 & 0xFFF)


def response_id_text(text: str) -> str:
    """`chatcmpl-<32 hex>` as the `resp_` id of the response behind it; any other text as it is.

    For the edge where clients name responses: everything behind it knows `resp_` ids only.
    """
    digits = text.removeprefix(_COMPLETION_PREFIX)
    return f"resp_{digits}" if text.startswith(_COMPLETION_PREFIX) and _HEX_ID.fullmatch(digits) else text


def is_id(prefix: str, text: str) -> bool:
    """Whether `text` has the form of our ids with this prefix: what has not names nothing here."""
    return text.startswith(f"{prefix}_") and _HEX_ID.fullmatch(text, len(prefix) + 1) is not None


def new_id(prefix: str, *, unix_ms: int | None = None) -> str:
    """Mint `<prefix>_<32 hex>` (UUIDv7 with random `rand_a`), for conversations, messages, claims, requests."""
    return f"{prefix}_{_uuid7_hex(now_ms() if unix_ms is None else unix_ms, secrets.randbits(12))}"
