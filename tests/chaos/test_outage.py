"""A broker that is killed and comes back: clients keep their sockets, new ones are told when to come again.

The broker is the test's own.
"""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from openai import AsyncOpenAI

from deploy.brokers import Broker
from deploy.brokers.select import broker_for_suite
from tests.chaos.campaign import MODEL, SCRIPTED
from tests.support.mesh import Mesh, Replica

ANSWER_S = 30.0
"""An upper bound for an answer during an outage: two request timeouts and what a busy machine adds."""
RECOVERED_S = 60.0


@pytest.fixture
async def own(broker: Broker) -> AsyncIterator[Broker]:
    if not (broker.capabilities.controllable and broker.capabilities.persistent):
        pytest.skip("a restart needs a broker of ours that keeps its records")
    started = broker_for_suite(broker.name)
    try:
        await asyncio.to_thread(started.start)
        yield started
    finally:
        await asyncio.to_thread(started.stop)


async def test_streams_outlive_an_outage_and_newcomers_are_told_to_come_again(own: Broker, tmp_path: Path) -> None:
    env = SCRIPTED | {"CHATMESH_SCRIPT_TOKENS_PER_S": "20", "CHATMESH_REQUEST_TIMEOUT_MS": "2000"}
    async with Mesh(own, tmp_path, env=env) as mesh, AsyncOpenAI(base_url=mesh.url, api_key="k", max_retries=0) as sdk:
        begun = asyncio.Event()
        reading = asyncio.create_task(read_one(sdk, begun))
        await asyncio.wait_for(begun.wait(), RECOVERED_S)
        await asyncio.to_thread(own.kill)
        refused = await ask(mesh.url)
        assert not reading.done(), "the stream ended with the broker"
        await asyncio.to_thread(own.restart)
        said, told = await asyncio.wait_for(reading, RECOVERED_S)
        assert said == told
        assert (await ask_until_accepted(mesh.url)).status_code == 200
        assert all(replica.process.running for replica in mesh.replicas)
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        for replica in mesh.replicas:
            assert_quiet(replica)


async def read_one(sdk: AsyncOpenAI, begun: asyncio.Event) -> tuple[str, str]:
    """What the deltas said, and what the last event says, over one connection; `begun` with the first delta."""
    said, told = "", ""
    async for event in await sdk.responses.create(model=MODEL, input="Hi", stream=True, max_output_tokens=100):
        if event.type == "response.output_text.delta":
            said += event.delta
            begun.set()
        elif event.type in ("response.completed", "response.incomplete"):
            told = event.response.output_text
    return said, told


async def ask(url: str) -> httpx.Response:
    """One request without a stream, answered in bounded time."""
    async with httpx.AsyncClient(timeout=ANSWER_S) as client:
        return await client.post(f"{url}/responses", json={"model": MODEL, "input": "Hi", "max_output_tokens": 5})


async def ask_until_accepted(url: str) -> httpx.Response:
    async with asyncio.timeout(RECOVERED_S):
        while (answer := await ask(url)).status_code == 503:
            await asyncio.sleep(int(answer.headers["retry-after"]))
    return answer


def assert_quiet(replica: Replica) -> None:
    """No log storm: the outage and its end are said once, whatever was tried in between."""
    lines = [re.sub(r"\S*_[0-9a-f]{32}|\d+", "#", line[24:]) for line in replica.process.log_text().splitlines()]
    beats = Counter(line.split(", ")[0] for line in lines if "heartbeats of" in line)
    # A busy machine may hold a beat up once more for longer than a request may take, and that is said too.
    assert len(beats) == 2 and len(set(beats.values())) == 1 and max(beats.values()) <= 2, beats
    # Who owns partitions anew says so for each of them.
    storms = {line: count for line, count in Counter(lines).items() if count > 5 and "owns partition" not in line}
    assert not storms, storms
