"""The mesh under attack: on the embedded broker whatever --broker says, for what is attacked is the edge."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from deploy.brokers.select import EMBEDDED, broker_for_suite
from tests.fuzz.target import KEYS, Target
from tests.support.mesh import PATIENT, Mesh

_PLANTED = 12


@pytest.fixture(scope="session")
async def target(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Target]:
    """One gateway with keys for two tenants; the engine echoes, fast. The first tenant has secrets."""
    folder = tmp_path_factory.mktemp("fuzz")
    keys = folder / "keys.yaml"
    keys.write_text(KEYS)
    env = {
        "CHATMESH_ENGINE": "scripted",
        "CHATMESH_SCRIPT_ECHO": "true",
        "CHATMESH_SCRIPT_TOKENS_PER_S": "5000",
        "CHATMESH_API_KEYS": str(keys),
        "CHATMESH_FOREGROUND_GRACE_S": "1",
        **PATIENT,
    }
    with broker_for_suite(EMBEDDED) as broker:
        async with Mesh(broker, folder, env=env) as mesh:
            made = Target(mesh)
            await made.plant(_PLANTED)
            yield made


@pytest.fixture(scope="session")
def runner(target: Target) -> Iterator[asyncio.Runner]:
    """The loop on which attacks run: hypothesis calls no coroutines."""
    with asyncio.Runner() as made:
        yield made
