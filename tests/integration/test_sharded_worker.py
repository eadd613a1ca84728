"""A worker whose model is shared by two ranks, in a mesh: it dies as a whole, and a plain worker goes on for it.

On a broker of its own, once: what it takes seconds to load is the same on every broker.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from openai import AsyncOpenAI

from deploy.brokers.embedded import EmbeddedBroker
from shared.records import Claimed, Released
from shared.topics import Service
from tests.support.logs import journal_of
from tests.support.mesh import Mesh, Replica
from tests.support.policies import TEST_POLICY
from tests.support.sharded import SETTINGS

TOKENS = 300
READY_S = 250.0
GONE_S = 30.0
PLAIN = {"CHATMESH_ENGINE": "transformers", "CHATMESH_SLOTS": "1"}
SHARDED = {"CHATMESH_ENGINE": "deepspeed", "CHATMESH_TENSOR_PARALLEL": "2", "CHATMESH_SLOTS": "4"}
"""More slots than the plain one has: whoever has more free ones gets the job."""


@pytest.fixture(scope="module")
async def mesh(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    folder: Path = tmp_path_factory.mktemp("sharded")
    (folder / "policy.yaml").write_text(TEST_POLICY)
    env = {**SETTINGS, **PLAIN, "CHATMESH_MODEL": str(llama), "CHATMESH_POLICY": str(folder / "policy.yaml")}
    with EmbeddedBroker() as broker:
        async with Mesh(broker, folder, env=env) as mesh:
            mesh.add(Service.INFERENCE, **SHARDED)
            await mesh.wait_ready(READY_S)
            yield mesh


def ranks_behind(replica: Replica) -> list[psutil.Process]:
    """The processes that follow the replica's first rank, which the service itself is."""
    return psutil.Process(replica.process.pid).children()


async def test_a_rank_that_is_killed_ends_its_worker_and_a_plain_one_says_the_rest(mesh: Mesh) -> None:
    plain, sharded = mesh.of(Service.INFERENCE)
    request = {"model": "llama", "input": "Go on.", "max_output_tokens": TOKENS, "temperature": 0.0}
    async with AsyncOpenAI(base_url=mesh.url, api_key="local", max_retries=0, timeout=120) as client:
        reference = (await client.responses.create(**request)).output_text
        text, victims = "", ranks_behind(sharded)
        async for event in await client.responses.create(stream=True, **request):
            if event.type == "response.output_text.delta":
                if not text:
                    victims[0].send_signal(signal.SIGKILL)
                text += event.delta
    assert text == reference == event.response.output_text, mesh.logs()
    assert event.response.usage.output_tokens == TOKENS
    journal = await journal_of(mesh, event.response.id)
    assert [r.worker for r in journal if isinstance(r, Claimed)] == [sharded.id, plain.id]
    assert [r.worker for r in journal if isinstance(r, Released)] == [sharded.id]

    assert await asyncio.to_thread(sharded.process.wait, GONE_S), sharded.process.log_text()
    assert sharded.process.exit_code == 1
    assert not psutil.wait_procs(victims, timeout=GONE_S)[1]
    log = sharded.process.log_text()
    assert log.count(f"rank 1 (pid {victims[0].pid}) was ended by SIGKILL: this worker ends") == 1, log
    mesh.retire(sharded)


async def test_a_worker_that_is_asked_to_end_takes_its_ranks_along(mesh: Mesh) -> None:
    sharded = mesh.add(Service.INFERENCE, **SHARDED)
    await mesh.wait_ready(READY_S)
    followers = ranks_behind(sharded)
    assert len(followers) == 1
    sharded.process.terminate()
    assert await asyncio.to_thread(sharded.process.wait, GONE_S), sharded.process.log_text()
    assert sharded.process.exit_code == 0
    assert not psutil.wait_procs(followers, timeout=GONE_S)[1], sharded.process.log_text()
    assert "this worker ends" not in sharded.process.log_text()
    mesh.retire(sharded)
