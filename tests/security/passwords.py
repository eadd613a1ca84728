"""Passwords that change while a broker runs (KIP-554): aiokafka has no request for that."""

import hashlib
import secrets
from typing import Any

from aiokafka.errors import for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import CompactArray, CompactBytes, CompactString, Int8, Int16, Int32, Schema, TaggedFields

from shared.log.admin import admin_client
from shared.settings import KafkaSettings

MECHANISM = "SCRAM-SHA-512"
_CODE, _HASH = 2, "sha512"
_ITERATIONS = 4096  # as few as Kafka takes


class _Answer(Response):  # type: ignore[misc]
    API_KEY = 51
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "results",
            CompactArray(
                ("user", CompactString("utf-8")),
                ("error_code", Int16),
                ("error_message", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _Alteration(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = 51
    API_VERSION = 0
    RESPONSE_TYPE = _Answer
    SCHEMA = Schema(
        (
            "deletions",
            CompactArray(("name", CompactString("utf-8")), ("mechanism", Int8), ("tags", TaggedFields)),
        ),
        (
            "upsertions",
            CompactArray(
                ("name", CompactString("utf-8")),
                ("mechanism", Int8),
                ("iterations", Int32),
                ("salt", CompactBytes),
                ("salted_password", CompactBytes),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _Alter(Request[_Alteration]):  # type: ignore[misc]
    API_KEY = 51

    def __init__(self, *upserted: tuple[Any, ...]) -> None:
        self._upserted = upserted

    def build(self, request_struct_class: type[_Alteration]) -> _Alteration:
        return request_struct_class([], list(self._upserted), {})


async def set_password(settings: KafkaSettings, name: str, password: str) -> None:
    """Who comes as `name` by MECHANISM has this password from now on; connections that are open stay."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac(_HASH, password.encode(), salt, _ITERATIONS)
    async with admin_client(settings) as client:
        answer = await client._send_request(_Alter((name, _CODE, _ITERATIONS, salt, salted, {})))
    for user, code, message, *_ in answer.results:
        assert code == 0, f"{user}: {for_code(code).__name__} {message}"
