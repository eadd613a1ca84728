"""One secured Apache Kafka, and on it a mesh whose services have the least rights that the registry derives."""

from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest
from openai import AsyncOpenAI

from deploy.brokers.secured import CLEAR, ENCRYPTED, THIRD_PARTY, SecuredJvmBroker
from deploy.topics.acls import grants
from shared.log.admin import wait_for_broker
from shared.log.granting import grant
from shared.topics import Service
from tests.support.mesh import Mesh
from tests.support.policies import TEST_POLICY
from tests.support.suites import require_jvm

COUNTS = {Service.GATEWAY: 1, Service.MODERATION: 1, Service.INFERENCE: 2, Service.HISTORY: 1}
COMES_BY = {
    Service.GATEWAY: (ENCRYPTED, "SCRAM-SHA-256"),
    Service.MODERATION: (ENCRYPTED, "PLAIN"),
    Service.INFERENCE: (CLEAR, "SCRAM-SHA-512"),
    Service.HISTORY: (CLEAR, "PLAIN"),
}
"""Each in another way; all others by SCRAM-SHA-512 over TLS."""
CLEAR_SESSION_S = 5
"""Whoever comes without TLS is disconnected again and again: nothing may be lost by that, nor anybody notice."""
TOKENS_PER_S = 40
POISON = "hemlock"


@pytest.fixture(scope="session")
def secured_broker() -> Iterator[SecuredJvmBroker]:
    """TLS, passwords, and access lists that nothing stands in."""
    require_jvm("a secured Apache Kafka")
    with SecuredJvmBroker(clear_session_s=CLEAR_SESSION_S) as running:
        yield running


@pytest.fixture(scope="session")
async def secured_mesh(
    secured_broker: SecuredJvmBroker, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Mesh]:
    """Four services, each under its own name and with no right but those that it needs."""
    folder: Path = tmp_path_factory.mktemp("secured")
    (folder / "policy.yaml").write_text(TEST_POLICY)
    env = {
        "CHATMESH_CREATE_TOPICS": "false",
        "CHATMESH_ENGINE": "scripted",
        "CHATMESH_SCRIPT_ECHO": "true",
        "CHATMESH_SCRIPT_POISON": POISON,
        "CHATMESH_SCRIPT_TOKENS_PER_S": str(TOKENS_PER_S),
        "CHATMESH_POLICY": str(folder / "policy.yaml"),
    }
    mesh = Mesh(secured_broker, folder, env=env, counts={})
    await wait_for_broker(mesh.settings, 30)
    await grant(mesh.settings, grants(mesh.namespace, consumers=[THIRD_PARTY]))
    async with mesh:
        await start(mesh, COUNTS)
        await start(mesh, {Service.MODERATION: 1})  # after the first one, so that it reads the policy in the log
        yield mesh


async def start(mesh: Mesh, counts: Mapping[Service, int]) -> None:
    """So many more, ready, that come by COMES_BY."""
    assert isinstance(mesh.broker, SecuredJvmBroker)
    for service, count in counts.items():
        for _ in range(count):
            mesh.add(service, **mesh.broker.access_by(service.value, *COMES_BY[service]))
    await mesh.wait_ready()


@pytest.fixture(scope="session")
async def client(secured_mesh: Mesh) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=secured_mesh.url, api_key="local", max_retries=0, timeout=60) as sdk:
        yield sdk
