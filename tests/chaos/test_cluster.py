"""Three brokers of which one is lost at a time: whatever it did for the mesh, streams go on (DESIGN 8.1, 8.3).

Nothing may be lost either: topics have three copies, and a record counts once two have it.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from deploy.brokers import Broker
from deploy.brokers.cluster import JvmCluster
from deploy.topics import differences
from shared.topics import HEARTBEATS, OWNERS, Service
from tests.chaos.campaign import Plan, carry_out, environment
from tests.chaos.faults import Scene
from tests.chaos.nodes import NodeKilled, controller, coordinator, leader
from tests.chaos.report import figures, table, violations
from tests.support.mesh import Mesh
from tests.support.suites import require_jvm

COUNTS = {Service.GATEWAY: 1, Service.MODERATION: 1, Service.INFERENCE: 2, Service.HISTORY: 1}
PLAN = Plan(streams=24, kills=1, concurrent=6, baseline=6, prompts=6, tokens=60, patience_s=120.0)


@pytest.fixture(scope="module")
async def cluster(broker: Broker) -> AsyncIterator[JvmCluster]:
    """The module's own; `broker` says only that Apache Kafka is wanted."""
    require_jvm("a cluster of Apache Kafka")
    started = JvmCluster()
    try:
        await asyncio.to_thread(started.start)
        yield started
    finally:
        await asyncio.to_thread(started.stop)


@pytest.fixture(scope="module")
async def mesh(cluster: JvmCluster, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    folder = tmp_path_factory.mktemp("cluster")
    async with Mesh(cluster, folder, env=environment(folder, PLAN), counts=COUNTS) as running:
        yield running


async def test_topics_have_the_copies_that_the_settings_ask_for(mesh: Mesh) -> None:
    assert (mesh.settings.replication_factor, mesh.settings.min_insync_replicas) == (3, 2)
    assert await differences.find(mesh.settings) == []


@pytest.mark.timeout(600)  # against a hang; it takes a minute on two quiet cores
async def test_every_stream_outlives_the_loss_of_a_broker(cluster: JvmCluster, mesh: Mesh) -> None:
    losses = (
        NodeKilled(cluster, leader(HEARTBEATS), "leader"),
        NodeKilled(cluster, coordinator(OWNERS), "coordinator", newcomer=Service.MODERATION),
        NodeKilled(cluster, controller, "controller"),
    )
    result = await carry_out(Scene(mesh, cluster), mesh.folder, replace(PLAN, faults=losses))
    found = violations(result)
    print(table(result, found))
    assert result.trouble is None
    assert not found, "\n".join(map(str, found))
    for row in figures(result):
        assert row.streams or not row.faults, f"{row.fault} hit no stream"
    assert all(replica.process.running for replica in mesh.replicas)
