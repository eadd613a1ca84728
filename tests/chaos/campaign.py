"""One chaos run: a mesh with two of every service, streams without faults, then streams under faults, then the logs."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from deploy.brokers import BrokerError
from deploy.brokers.ports import LOOPBACK, free_port
from deploy.brokers.select import broker_for_suite
from shared.topics import EVENTS, JOURNAL, VERDICTS, Service
from tests.chaos.checker import check, references_of
from tests.chaos.clients import Gateway, StreamClient
from tests.chaos.evidence import Evidence, Rule, Screening
from tests.chaos.faults import FAULTS, Fault, Scene
from tests.chaos.observations import Notebook, now
from tests.chaos.proxy import BrokerProxy
from tests.chaos.scenarios import logs
from tests.chaos.striking import Progress, strike_all
from tests.support.mesh import Mesh

SCREENING = Screening(stride=4, hold_back=8)
"""Small windows, so that pauses are the mesh's and not moderation's; nothing is ever found."""
RECORDED_S = 30.0
"""For so long history may be behind the log when the last stream has ended."""
MODEL = "SmolLM2-135M-Instruct"
EXTRAS: Sequence[dict[str, Any]] = (
    {},
    # Begun in every other word, so that text is held back nearly always, and hardly ever complete.
    {"stop": [" every", "ing s", "ations of"]},
    {"include": ["message.output_text.logprobs"], "top_logprobs": 2},
)
SCRIPTED = {"CHATMESH_ENGINE": "scripted", "CHATMESH_SLOTS": "256"}


@dataclass(frozen=True)
class Plan:
    """`streams` at least, `concurrent` at a time, until each kind of fault has struck `kills` times.

    After `minutes` no more faults strike; the report says how many did. With `overlap` replicas of different services
    may be down at the same time, never two of one.
    """

    streams: int
    kills: int
    minutes: float | None = None
    overlap: bool = False
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
    """Evidence without faults and with them; `trouble` says why the faults ended early, if they did."""

    calm: Evidence
    chaos: Evidence
    trouble: str | None = None


@asynccontextmanager
async def scene(suite: str, folder: Path, env: Mapping[str, str]) -> AsyncIterator[Scene]:
    """A broker of its own behind a proxy, and a mesh with two of every service. Raises BrokerError."""
    port = free_port()
    broker = broker_for_suite(suite, advertised=f"{LOOPBACK}:{port}")
    async with AsyncExitStack() as stack:
        stack.push_async_callback(asyncio.to_thread, broker.stop)
        await asyncio.to_thread(broker.start)
        proxy = await stack.enter_async_context(BrokerProxy(port, broker.listener))
        mesh = await stack.enter_async_context(Mesh(broker, folder, env=env, counts=dict.fromkeys(Service, 2)))
        yield Scene(mesh, broker, proxy)


async def campaign(suite: str, folder: Path, plan: Plan, progress: Progress = print) -> Result:
    """Run the plan; client and fault logs lie in `folder`. When the mesh does not heal, the faults end there."""
    async with scene(suite, folder, environment(folder, plan)) as where:
        return await carry_out(where, folder, plan, progress)


def environment(folder: Path, plan: Plan) -> dict[str, str]:
    """What the services of a scene need for the plan; writes their policy into `folder`."""
    policy = folder / "policy.yaml"
    policy.write_text(SCREENING.policy("chaos"))
    return SCRIPTED | {"CHATMESH_SCRIPT_TOKENS_PER_S": str(plan.tokens_per_s), "CHATMESH_POLICY": str(policy)}


async def carry_out(where: Scene, folder: Path, plan: Plan, progress: Progress = print) -> Result:
    """As `campaign`, where the scene is set."""
    with Notebook(folder / "calm.jsonl") as calm, Notebook(folder / "chaos.jsonl") as chaos:
        await _Load(where.mesh, calm, plan).run(plan.baseline)
        load = _Load(where.mesh, chaos, plan)
        striking = asyncio.create_task(_strike(where, chaos, plan, lambda: load.begun, progress), name="faults")
        await load.run(plan.streams, striking)
        under_faults = await _evidence(where.mesh, chaos, references_of(calm.lines))
    return Result(replace(under_faults, lines=calm.lines), under_faults, striking.result())


async def _evidence(mesh: Mesh, notebook: Notebook, references: Mapping[str, str]) -> Evidence:
    """What is to be judged, once history's recorder has caught up with the log or had the time to."""
    journals, events, verdicts = [await logs.sub_logs(mesh, topic) for topic in (JOURNAL, EVENTS, VERDICTS)]
    give_up_at = now() + RECORDED_S
    while True:
        stored = await logs.stored(mesh, sorted(events))
        evidence = Evidence(notebook.lines, journals, events, references, SCREENING, stored, verdicts)
        if now() > give_up_at or not any(violation.rule is Rule.STORED for violation in check(evidence)):
            return evidence
        await asyncio.sleep(1.0)


async def _strike(
    where: Scene, notebook: Notebook, plan: Plan, streams: Callable[[], int], progress: Progress
) -> str | None:
    """Strike until the plan is fulfilled; returns what ended it early, so that the evidence so far is judged."""
    await asyncio.sleep(2.0)  # streams are under way
    try:
        await strike_all(
            where,
            notebook,
            plan.faults,
            plan.kills,
            minutes=plan.minutes,
            overlap=plan.overlap,
            rng=random.Random(plan.seed),
            progress=lambda line: progress(f"{line}; {streams():,} streams"),
        )
    except ExceptionGroup as group:
        known, bugs = group.split((AssertionError, BrokerError))
        if known is None or bugs is not None:
            raise
        trouble = "\n".join(map(str, known.exceptions))
        progress(trouble)
        return trouble
    return None


class _Load:
    """Keeps streams running, each on its own number."""

    def __init__(self, mesh: Mesh, notebook: Notebook, plan: Plan) -> None:
        self._mesh = mesh
        self._notebook = notebook
        self._plan = plan
        self.begun = 0

    async def run(self, streams: int, faults: "asyncio.Task[Any] | None" = None) -> None:
        """Until `streams` have begun, `faults` is done and every stream has ended."""
        await asyncio.gather(*(self._slot(streams, faults) for _ in range(min(streams, self._plan.concurrent))))

    async def _slot(self, streams: int, faults: "asyncio.Task[Any] | None") -> None:
        while self.begun < streams or not (faults is None or faults.done()):
            number, self.begun = self.begun, self.begun + 1
            client = StreamClient(number, self._gateways, self._notebook)
            await client.run(self._request(number), self._plan.patience_s)

    def _request(self, number: int) -> dict[str, Any]:
        """Each prompt asks for the same every time, so that its answer without faults is the reference."""
        kind = number % self._plan.prompts
        wanted = {"model": MODEL, "input": f"Go on from {kind}.", "max_output_tokens": self._plan.tokens}
        return wanted | EXTRAS[kind % len(EXTRAS)]

    def _gateways(self) -> list[Gateway]:
        return [Gateway(r.id, f"http://127.0.0.1:{r.port}/v1") for r in self._mesh.of(Service.GATEWAY)]
