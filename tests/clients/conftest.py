"""One mesh for all client suites, on the embedded broker whatever --broker says: what is tested here are dialects."""

from collections.abc import AsyncIterator

import pytest

from deploy.brokers.select import EMBEDDED, broker_for_suite
from shared.heartbeats import ClusterWatcher
from shared.topics import Service
from tests.clients.scene import Scene, environment
from tests.support.mesh import Mesh


@pytest.fixture(scope="session")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    """Two gateways with keys for two tenants; the engine echoes, at 100 tokens a second."""
    folder = tmp_path_factory.mktemp("clients")
    counts = {**dict.fromkeys(Service, 1), Service.GATEWAY: 2}
    with broker_for_suite(EMBEDDED) as broker:
        async with Mesh(broker, folder, env=environment(folder), counts=counts) as mesh:
            watcher = ClusterWatcher(mesh.settings, Service.GATEWAY)
            await watcher.start()
            try:
                yield Scene(mesh, watcher)
            finally:
                await watcher.stop()
