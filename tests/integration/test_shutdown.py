"""Every service ends within its one deadline and with status 0, also when no broker answers any more."""

import asyncio
import signal
import time
from contextlib import nullcontext

import pytest
from openai import AsyncOpenAI

from deploy.brokers import Broker
from shared.runtime import LINGER_S
from tests.integration.conftest import MODEL
from tests.support.mesh import Mesh, Replica

SHUTDOWN_S = 4.0
SLACK_S = 6.0
"""For a machine that does other things too; without a deadline it would take the broker's timeouts, many times."""
ENV = {
    "CHATMESH_ENGINE": "scripted",
    "CHATMESH_SCRIPT_TOKENS_PER_S": "20",
    "CHATMESH_SHUTDOWN_S": str(SHUTDOWN_S),
}


async def first_words(client: AsyncOpenAI) -> None:
    """Until a stream runs; it is left running."""
    stream = await client.responses.create(model=MODEL, input="Go on.", stream=True)
    async for event in stream:
        if event.type == "response.output_text.delta":
            return


async def ends(replicas: list[Replica]) -> dict[str, tuple[int | None, float]]:
    """Exit status of each and seconds until then, counted from now."""
    begun = time.monotonic()

    def wait(replica: Replica) -> tuple[int | None, float]:
        replica.process.wait(SHUTDOWN_S + LINGER_S + SLACK_S)
        return replica.process.exit_code, time.monotonic() - begun

    found = await asyncio.gather(*(asyncio.to_thread(wait, replica) for replica in replicas))
    return {replica.id: end for replica, end in zip(replicas, found, strict=True)}


@pytest.mark.parametrize("broker_dies", [False, True], ids=["broker alive", "broker dead"])
async def test_all_at_once(broker: Broker, tmp_path_factory: pytest.TempPathFactory, broker_dies: bool) -> None:
    """In the middle of a stream."""
    folder = tmp_path_factory.mktemp("shutdown")
    with type(broker)() if broker_dies else nullcontext(broker) as serving:
        async with Mesh(serving, folder, env=ENV) as mesh, AsyncOpenAI(base_url=mesh.url, api_key="local") as client:
            await first_words(client)
            if broker_dies:
                await asyncio.to_thread(serving.kill)
            for replica in mesh.replicas:
                replica.process.signal(signal.SIGTERM)
            ended = await ends(mesh.replicas)
            said = mesh.logs()
    assert {status for status, _ in ended.values()} == {0}, f"{ended}\n{said}"
    assert max(took_s for _, took_s in ended.values()) < SHUTDOWN_S + LINGER_S + SLACK_S
    assert "Traceback" not in said
