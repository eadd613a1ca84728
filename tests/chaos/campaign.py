"""One chaos run: a mesh with two of every service, streams without faults, then streams under faults, then the logs."""

import asyncio
import random
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from aiokafka import TopicPartition

from deploy.brokers import Broker
from shared.heartbeats import ClusterWatcher
from shared.log import decode
from shared.log.clients import make_consumer, topic_name
from shared.log.tail import raw
from shared.records.codec import Envelope
from shared.settings import MeshSettings
from shared.topics import EVENTS, JOURNAL, Service, Topic
from tests.chaos.checker import Evidence, references_of
from tests.chaos.clients import Gateway, StreamClient, http_client
from tests.chaos.faults import FAULTS, Fault, Injector
from tests.chaos.observations import Notebook
from tests.support.mesh import Mesh

# Small windows, so that pauses are the mesh's and not moderation's; nothing is ever found.
POLICY = "version: chaos\nstreaming: {stride: 4, lookback: 64, hold_back: 8}\ncategories: {}\n"
MODEL = "SmolLM2-135M-Instruct"


@dataclass(frozen=True)
class Plan:
    """`streams` at least, `concurrent` at a time, until `kills` faults have struck, the kinds in turn."""

    streams: int
    kills: int
    concurrent: int = 24
    baseline: int = 24
    prompts: int = 8
    tokens: int = 100
    tokens_per_s: float = 20.0
    patience_s: float = 90.0
    seed: int = 1
    faults: Sequence[Fault] = field(default=FAULTS)


@dataclass(frozen=True)
class Result:
    """Evidence without faults and with them."""

    calm: Evidence
    chaos: Evidence


async def campaign(broker: Broker, folder: Path, plan: Plan) -> Result:
    """Run the plan; client and fault logs lie in `folder`. Raises AssertionError when the mesh does not heal."""
    policy = folder / "policy.yaml"
    policy.write_text(POLICY)
    env = {
        "CHATMESH_ENGINE": "scripted",
        "CHATMESH_SCRIPT_TOKENS_PER_S": str(plan.tokens_per_s),
        "CHATMESH_SLOTS": "256",
        "CHATMESH_POLICY": str(policy),
    }
    async with AsyncExitStack() as stack:
        mesh = await stack.enter_async_context(Mesh(broker, folder, env=env, counts=dict.fromkeys(Service, 2)))
        http = await stack.enter_async_context(http_client())
        calm = stack.enter_context(Notebook(folder / "calm.jsonl"))
        chaos = stack.enter_context(Notebook(folder / "chaos.jsonl"))
        await _Load(mesh, http, calm, plan).run(plan.baseline, asyncio.create_task(asyncio.sleep(0)))
        faults = asyncio.create_task(_strike(mesh, chaos, plan), name="faults")
        await _Load(mesh, http, chaos, plan).run(plan.streams, faults)
        journals, events = await _logs(mesh.settings, JOURNAL), await _logs(mesh.settings, EVENTS)
    references = references_of(calm.lines)
    return Result(
        Evidence(calm.lines, journals, events, references), Evidence(chaos.lines, journals, events, references)
    )


class _Load:
    """Keeps streams running, each on its own number."""

    def __init__(self, mesh: Mesh, http: httpx.AsyncClient, notebook: Notebook, plan: Plan) -> None:
        self._mesh = mesh
        self._http = http
        self._notebook = notebook
        self._plan = plan
        self._begun = 0

    async def run(self, streams: int, faults: "asyncio.Task[None]") -> None:
        """Until `streams` have begun, `faults` is done and every stream has ended. Raises what `faults` raised."""
        slots = [self._slot(streams, faults) for _ in range(min(streams, self._plan.concurrent))]
        await asyncio.gather(*slots)
        await faults

    async def _slot(self, streams: int, faults: "asyncio.Task[None]") -> None:
        while self._begun < streams or not faults.done():
            number, self._begun = self._begun, self._begun + 1
            client = StreamClient(number, self._http, self._gateways, self._notebook)
            await client.run(self._request(number), self._plan.patience_s)

    def _request(self, number: int) -> dict[str, Any]:
        prompt = f"Go on from {number % self._plan.prompts}."
        return {"model": MODEL, "input": prompt, "max_output_tokens": self._plan.tokens}

    def _gateways(self) -> list[Gateway]:
        return [Gateway(r.id, f"http://127.0.0.1:{r.port}/v1") for r in self._mesh.of(Service.GATEWAY)]


async def _strike(mesh: Mesh, notebook: Notebook, plan: Plan) -> None:
    watcher = ClusterWatcher(mesh.settings, Service.GATEWAY)
    await watcher.start()
    try:
        injector = Injector(mesh, watcher.cluster, notebook, random.Random(plan.seed))
        await asyncio.sleep(2.0)  # streams are under way
        for number in range(plan.kills):
            await injector.strike(plan.faults[number % len(plan.faults)])
    finally:
        await watcher.stop()


async def _logs(settings: MeshSettings, topic: Topic) -> dict[str, list[Envelope[Any]]]:
    """Every record of a log topic, by response, in log order."""
    found: dict[str, list[Envelope[Any]]] = {}
    consumer = make_consumer(settings)
    await consumer.start()
    try:
        partitions = [TopicPartition(topic_name(settings, topic), n) for n in range(settings.partitions)]
        consumer.assign(partitions)
        begins, ends = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
        for partition in partitions:
            consumer.seek(partition, begins[partition])
        while any([await consumer.position(p) < ends[p] for p in partitions]):
            for messages in (await consumer.getmany(timeout_ms=500)).values():
                for message in messages:
                    record = raw(message)
                    found.setdefault(record.key, []).append(decode(topic, record))
    finally:
        await consumer.stop()
    return found
