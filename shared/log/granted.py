"""What the broker lets this client do, asked at start: a right that is missing shows at once and by its name.

Unasked, a service would be ready and fail at its first append. Brokers tell with metadata (KIP-430), which aiokafka
does not ask for; so the two requests are spelled here (https://kafka.apache.org/protocol).
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    NoError,
    NotCoordinatorForGroupError,
    TopicAuthorizationFailedError,
    for_code,
)
from aiokafka.protocol.admin import DescribeGroupsRequest_v3, DescribeGroupsResponse_v3
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Int16, Int32, Schema, String

from shared.rights import Operation, Right

OPERATION_CODES: dict[Operation, int] = {"Read": 3, "Write": 4, "Create": 5, "Describe": 8, "DescribeConfigs": 10}
"""Of org.apache.kafka.common.acl.AclOperation."""
_NOT_TOLD = -(2**31)
_RETRY_S = 0.2

_text = String("utf-8")


class _MetadataResponse(Response):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 8
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", Array(("node_id", Int32), ("host", _text), ("port", Int32), ("rack", _text))),
        ("cluster_id", _text),
        ("controller_id", Int32),
        (
            "topics",
            Array(
                ("error_code", Int16),
                ("topic", _text),
                ("is_internal", Boolean),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", Array(Int32)),
                        ("isr", Array(Int32)),
                        ("offline_replicas", Array(Int32)),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
        ("cluster_authorized_operations", Int32),
    )


class _MetadataStruct(RequestStruct):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 8
    RESPONSE_TYPE = _MetadataResponse
    SCHEMA = Schema(
        ("topics", Array(_text)),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
    )


class _Metadata(Request[_MetadataStruct]):  # type: ignore[misc]
    API_KEY = 3

    def __init__(self, topics: Sequence[str]) -> None:
        self._topics = list(topics)

    def build(self, request_struct_class: type[_MetadataStruct]) -> _MetadataStruct:
        return request_struct_class(self._topics, False, False, True)


class _GroupsStruct(DescribeGroupsRequest_v3):  # type: ignore[misc]
    RESPONSE_TYPE = DescribeGroupsResponse_v3  # aiokafka names that of version 2, which lacks what is asked for


class _Groups(Request[_GroupsStruct]):  # type: ignore[misc]
    API_KEY = 15

    def __init__(self, group: str) -> None:
        self._group = group

    def build(self, request_struct_class: type[_GroupsStruct]) -> _GroupsStruct:
        return request_struct_class([self._group], True)


async def ungranted(client: AIOKafkaAdminClient, rights: Iterable[Right]) -> list[Right]:
    """Of `rights`, with names as the broker knows them, what it does not grant. What it does not have, it may grant.

    Waits for the groups' coordinator: a broker that has just started makes its own topics first. Raises KafkaError.
    """
    wanted = list(rights)
    names = [right.name for right in wanted if right.resource == "topic"]
    granted = {("topic", name): operations for name, operations in (await _of_topics(client, names)).items()}
    for right in wanted:
        if right.resource == "group":
            granted["group", right.name] = await _of_group(client, right.name)
    lacking = (replace(r, operations=_lacking(r.operations, granted[r.resource, r.name])) for r in wanted)
    return [right for right in lacking if right.operations]


async def _of_topics(client: AIOKafkaAdminClient, names: Sequence[str]) -> dict[str, int | None]:
    answer = await client._send_request(_Metadata(names))
    found: dict[str, int | None] = {}
    for code, name, _, _, operations in answer.topics:
        error = for_code(code)
        found[name] = 0 if error is TopicAuthorizationFailedError else operations if error is NoError else None
    return found


async def _of_group(client: AIOKafkaAdminClient, name: str) -> int | None:
    while True:
        try:
            coordinator = await client.find_coordinator(name)
            answer = await client._send_request(_Groups(name), coordinator)
            (code, *_, operations) = answer.groups[0]
            if code:
                raise for_code(code)(name)
        except GroupAuthorizationFailedError:
            return 0
        except (GroupCoordinatorNotAvailableError, GroupLoadInProgressError, NotCoordinatorForGroupError):
            await asyncio.sleep(_RETRY_S)
        else:
            return int(operations)


def _lacking(wanted: frozenset[Operation], granted: int | None) -> frozenset[Operation]:
    """`granted`: a bit per operation; None where the broker does not tell."""
    if granted is None or granted == _NOT_TOLD:
        return frozenset()
    return frozenset(operation for operation in wanted if not granted >> OPERATION_CODES[operation] & 1)
