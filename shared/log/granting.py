"""Access lists on the broker: granted, taken away, listed. For who may alter the cluster (a super user, as a rule).

aiokafka has the requests, but for one list entry each and without a caller; here one request carries all.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka.errors import ClusterAuthorizationFailedError, KafkaError, for_code
from aiokafka.protocol.admin import CreateAclsRequest_v1, DeleteAclsRequest_v1
from aiokafka.protocol.api import Request

from shared.errors import AccessDeniedError, LogError
from shared.log.admin import admin_client
from shared.log.granted import OPERATION_CODES
from shared.rights import Right
from shared.settings import KafkaSettings

_RESOURCES = {"topic": 2, "group": 3, "cluster": 4, "transactional_id": 5}
"""Of org.apache.kafka.common.resource.ResourceType."""
_PATTERNS = {"literal": 3, "prefixed": 4}
_ALLOW = 3
_FROM_ANYWHERE = "*"


@dataclass(frozen=True, slots=True)
class Grant:
    """`principal` (`User:gateway`) has `right`, whose names are as the broker knows them."""

    principal: str
    right: Right


class _Create(Request[CreateAclsRequest_v1]):  # type: ignore[misc]
    API_KEY = 30

    def __init__(self, entries: Sequence[tuple[Any, ...]]) -> None:
        self._entries = entries

    def build(self, request_struct_class: type[CreateAclsRequest_v1]) -> CreateAclsRequest_v1:
        return request_struct_class(self._entries)


class _Delete(Request[DeleteAclsRequest_v1]):  # type: ignore[misc]
    API_KEY = 31

    def __init__(self, entries: Sequence[tuple[Any, ...]]) -> None:
        self._entries = entries

    def build(self, request_struct_class: type[DeleteAclsRequest_v1]) -> DeleteAclsRequest_v1:
        return request_struct_class(self._entries)


def _entries(grants: Iterable[Grant]) -> list[tuple[Any, ...]]:
    return [
        (
            _RESOURCES[grant.right.resource],
            grant.right.name,
            _PATTERNS[grant.right.pattern],
            grant.principal,
            _FROM_ANYWHERE,
            OPERATION_CODES[operation],
            _ALLOW,
        )
        for grant in grants
        for operation in sorted(grant.right.operations)
    ]


async def grant(settings: KafkaSettings, grants: Iterable[Grant]) -> int:
    """Add them; those that are there already stay. Returns how many entries that are. Raises AccessDeniedError."""
    return await _send(settings, _entries(grants), _Create)


async def revoke(settings: KafkaSettings, grants: Iterable[Grant]) -> int:
    """Take them away again."""
    return await _send(settings, _entries(grants), _Delete)


async def _send(settings: KafkaSettings, entries: list[tuple[Any, ...]], request: type[_Create] | type[_Delete]) -> int:
    async with admin_client(settings) as client:
        try:
            answer = await client._send_request(request(entries))
        except KafkaError as error:
            raise LogError(f"cannot change the access lists: {error}") from error
    for code, message, *_ in answer.get_item(answer.SCHEMA.names[-1]):
        failure = for_code(code)
        if failure is ClusterAuthorizationFailedError:
            raise AccessDeniedError(f"{settings.principal} may not change the access lists: a super user may")
        if code:
            raise LogError(f"cannot change the access lists: {failure.__name__} {message or ''}".rstrip())
    return len(entries)
