"""The roles that a broker of a cluster has for a mesh, and its death in each of them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import CompactArray, CompactString, Int16, Int32, Int64, Schema, TaggedFields

from deploy.brokers.cluster import ClusterNode, JvmCluster
from deploy.topics import differences
from shared.log.clients import group_name, topic_name
from shared.topics import Group, Service, Topic
from tests.chaos.faults import Fault, Scene
from tests.support.mesh import Mesh, Replica

ALONE_S = 60.0
"""For so long the others may need to answer again without it: a cluster notices a death within four seconds."""
SYNCED_S = 60.0
_LOOK_EVERY_S = 0.1
_METADATA_LOG = "__cluster_metadata"

_text, _tags = CompactString("utf-8"), ("tags", TaggedFields)
_copies = CompactArray(("replica_id", Int32), ("log_end_offset", Int64), _tags)


class _QuorumResponse(Response):
    API_KEY = 55
    API_VERSION = 0
    SCHEMA = Schema(
        ("error_code", Int16),
        (
            "topics",
            CompactArray(
                ("name", _text),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("error_code", Int16),
                        ("leader_id", Int32),
                        ("leader_epoch", Int32),
                        ("high_watermark", Int64),
                        ("voters", _copies),
                        ("observers", _copies),
                        _tags,
                    ),
                ),
                _tags,
            ),
        ),
        _tags,
    )


class _QuorumStruct(RequestStruct):
    FLEXIBLE_VERSION = True
    API_KEY = 55
    API_VERSION = 0
    RESPONSE_TYPE = _QuorumResponse
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(("name", _text), ("partitions", CompactArray(("partition", Int32), _tags)), _tags),
        ),
        _tags,
    )


class _Quorum(Request[_QuorumStruct]):
    """DescribeQuorum, which aiokafka lacks; metadata names any broker as the controller."""

    API_KEY = 55

    def build(self, request_struct_class: type[_QuorumStruct]) -> _QuorumStruct:
        return request_struct_class([(_METADATA_LOG, [(0, {})], {})], {})


# -- who does what ---------------------------------------------------------------------------------------------

Role = Callable[[AIOKafkaAdminClient, Mesh], Awaitable[int]]
"""The number of the node that has it now."""


def leader(topic: Topic, partition: int = 0) -> Role:
    """Whoever takes the appends to a partition."""

    async def find(admin: AIOKafkaAdminClient, mesh: Mesh) -> int:
        (described,) = await admin.describe_topics([topic_name(mesh.settings, topic)])
        return int(next(each["leader"] for each in described["partitions"] if each["partition"] == partition))

    return find


def coordinator(group: Group) -> Role:
    """Whoever keeps a group together and has its offsets."""

    async def find(admin: AIOKafkaAdminClient, mesh: Mesh) -> int:
        return int(await admin.find_coordinator(group_name(mesh.settings, group.name)))

    return find


async def controller(admin: AIOKafkaAdminClient, _: Mesh) -> int:
    """Whoever decides which broker leads what."""
    answer = await admin._send_request(_Quorum())
    ((_, ((_, _, leads, *_),), _),) = answer.topics
    return int(leads)


@asynccontextmanager
async def _admin(cluster: JvmCluster) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=cluster.bootstrap)
    try:
        await client.start()
        yield client
    finally:
        await client.close()


async def having(cluster: JvmCluster, role: Role, mesh: Mesh) -> ClusterNode:
    """The node that has the role now."""
    async with _admin(cluster) as admin:
        return cluster.node(await role(admin, mesh))


async def in_sync(cluster: JvmCluster) -> None:
    """Return once every partition has all its copies, so that the next node may be lost."""
    async with asyncio.timeout(SYNCED_S):
        while not await _all_copies(cluster):
            await asyncio.sleep(_LOOK_EVERY_S)


async def _all_copies(cluster: JvmCluster) -> bool:
    try:
        async with _admin(cluster) as admin:
            topics = await admin.describe_topics()
    except KafkaError:
        return False
    copies = cluster.capabilities.replication_factor
    return all(len(each["isr"]) == copies for topic in topics for each in topic["partitions"])


class NodeKilled(Fault):
    """kill -9 of the node that has a role; it comes back once the mesh has answered without it, and a `newcomer` has
    started with a list of brokers on which the dead one stands."""

    def __init__(self, cluster: JvmCluster, role: Role, what: str, *, newcomer: Service | None = None) -> None:
        self.name = f"{what} SIGKILL"
        self._cluster = cluster
        self._role = role
        self._newcomer = newcomer
        self._victims: list[ClusterNode] = []

    async def inject(self, scene: Scene, victim: Replica | None) -> None:
        node = await having(self._cluster, self._role, scene.mesh)
        self._victims.append(node)
        await asyncio.to_thread(node.kill)
        if self._newcomer is not None:
            scene.mesh.add(self._newcomer)

    async def heal(self, scene: Scene, victim: Replica | None) -> bool:
        assert await differences.find(scene.mesh.settings) == []  # operators can look, whoever is away
        await answered(scene.mesh)
        await scene.mesh.wait_ready(ALONE_S)
        await asyncio.to_thread(self._victims[-1].restart)
        await in_sync(self._cluster)
        return False


async def answered(mesh: Mesh) -> None:
    """Return once a request that was sent now, or again after a refusal, has got its answer. Raises TimeoutError."""
    asked = {"model": "SmolLM2-135M-Instruct", "input": "Still there?", "max_output_tokens": 5}
    async with asyncio.timeout(ALONE_S), httpx.AsyncClient(timeout=ALONE_S) as client:
        while (answer := await client.post(f"{mesh.url}/responses", json=asked)).status_code == 503:
            await asyncio.sleep(_LOOK_EVERY_S)
    assert answer.status_code == 200 and answer.json()["status"] != "failed", answer.text
