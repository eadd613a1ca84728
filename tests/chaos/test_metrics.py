"""Metrics agree with the log: exactly where nobody dies, and as for what responses used, whoever dies.

A real Prometheus looks at every process once a second, by our own configuration and rules.
"""

import asyncio
import contextlib
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from deploy.brokers import Broker
from shared.folds import EventFold
from shared.records import AnyTerminal
from shared.topics import EVENTS, JOURNAL, VERDICTS, Service
from tests.chaos.clients import Gateway, StreamClient
from tests.chaos.faults import OBSERVE_S
from tests.chaos.observations import Notebook
from tests.chaos.scenarios.logs import sub_logs
from tests.support.logs import records
from tests.support.mesh import Mesh
from tests.support.tools import required_tool
from tests.support.watched import Prometheus, WatchedMesh

MODEL = "SmolLM2-135M-Instruct"
TOKENS, SHORT_TOKENS = 20, 7
CALM, RESPONSES, CONCURRENT = 40, 200, 16
PATIENCE_S = 60.0
LOOK_EVERY_S = 0.5
AGREED_S = 20.0
"""For so long metrics may be behind: history counts once a second, and who takes a partition over must join first."""
# Side by side, each lane one after the other. Inference last: what its owners count then is there to be read.
LANES = ((Service.GATEWAY, Service.MODERATION, Service.INFERENCE), (Service.HISTORY, Service.HISTORY))

TOKENS_USED, RESPONSES_USED = "chatmesh:usage_tokens:total", "chatmesh:usage_responses:total"

Totals = Counter[str]
"""Kind of token, or outcome → how many."""


# -- what the log says ---------------------------------------------------------------------------------------


async def ends(mesh: Mesh) -> list[AnyTerminal]:
    """The one end of each response, by the rules that every reader follows."""
    found: list[AnyTerminal] = []
    for log in (await sub_logs(mesh, EVENTS)).values():
        fold = EventFold()
        for envelope in log:
            fold.apply(envelope.record)
        assert fold.terminal is not None, f"{log[0].record.response_id} has not ended"
        found.append(fold.terminal)
    return found


def tokens_of(terminals: Sequence[AnyTerminal]) -> Totals:
    return Counter(
        input=sum(terminal.usage.input_tokens for terminal in terminals),
        output=sum(terminal.usage.output_tokens for terminal in terminals),
    )


def outcomes_of(terminals: Sequence[AnyTerminal]) -> Totals:
    return Counter(str(terminal.__struct_config__.tag) for terminal in terminals)


# -- what Prometheus says ------------------------------------------------------------------------------------


async def by(prometheus: Prometheus, expr: str, label: str) -> Totals:
    """The values of an instant vector by one of its labels."""
    return Counter({series["metric"][label]: int(series["value"][1]) for series in await prometheus.query(expr)})


async def agreed(prometheus: Prometheus, terminals: Sequence[AnyTerminal]) -> None:
    """What the recording rules say equals what the log says, in time; raises AssertionError with both where not."""
    tokens, outcomes = tokens_of(terminals), outcomes_of(terminals)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(AGREED_S):
            while await by(prometheus, TOKENS_USED, "gen_ai_token_type") != tokens:
                await asyncio.sleep(LOOK_EVERY_S)
            while await by(prometheus, RESPONSES_USED, "outcome") != outcomes:
                await asyncio.sleep(LOOK_EVERY_S)
    assert await by(prometheus, TOKENS_USED, "gen_ai_token_type") == tokens
    assert await by(prometheus, RESPONSES_USED, "outcome") == outcomes


async def total(prometheus: Prometheus, expr: str) -> float:
    """The sum over the processes that live; 0 where there is nothing."""
    found = await prometheus.query(f"sum({expr})")
    return float(found[0]["value"][1]) if found else 0.0


async def comes_to(prometheus: Prometheus, expr: str, expected: float) -> None:
    """The sum is that, at the next look if not at this one."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(AGREED_S):
            while await total(prometheus, expr) != expected:
                await asyncio.sleep(LOOK_EVERY_S)
    assert await total(prometheus, expr) == expected, expr


# -- the mesh ------------------------------------------------------------------------------------------------


class Load:
    """Clients that stream; every fifth answer ends at its limit."""

    def __init__(self, mesh: Mesh, notebook: Notebook) -> None:
        self._mesh = mesh
        self._notebook = notebook
        self.begun = 0

    async def run(self, responses: int, faults: "asyncio.Task[None] | None" = None) -> None:
        """Until so many have begun, `faults` are over, and all have ended."""
        await asyncio.gather(*(self._slot(responses, faults) for _ in range(CONCURRENT)))

    async def _slot(self, responses: int, faults: "asyncio.Task[None] | None") -> None:
        while self.begun < responses or not (faults is None or faults.done()):
            number, self.begun = self.begun, self.begun + 1
            wanted = {"model": MODEL, "input": f"Tell me of {number}."}
            if number % 5 == 0:
                wanted |= {"max_output_tokens": SHORT_TOKENS}
            await StreamClient(number, self._gateways, self._notebook).run(wanted, PATIENCE_S)

    def _gateways(self) -> list[Gateway]:
        return [Gateway(r.id, f"http://127.0.0.1:{r.port}/v1") for r in self._mesh.of(Service.GATEWAY)]


async def kill_in_lanes(prometheus: Prometheus, mesh: WatchedMesh) -> None:
    async with asyncio.TaskGroup() as group:
        for services in LANES:
            group.create_task(kill(prometheus, mesh, services))


async def kill(prometheus: Prometheus, mesh: WatchedMesh, services: Sequence[Service]) -> None:
    """One after the other, a replica of each dies by SIGKILL while streams run, and another one comes."""
    for service in services:
        await asyncio.sleep(1.0)
        victim = mesh.of(service)[0]
        victim.process.signal(signal.SIGKILL)
        await asyncio.sleep(OBSERVE_S)
        mesh.retire(victim)
        mesh.add(service)
        prometheus.retarget()
        await mesh.wait_ready(service=service)


@pytest.mark.timeout(240)  # against a hang; it takes less than a minute on two quiet cores
async def test_metrics_agree_with_the_log(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> None:
    program = required_tool("prometheus")
    folder: Path = tmp_path_factory.mktemp("metrics")
    (folder / "prometheus").mkdir()
    env = {
        "CHATMESH_ENGINE": "scripted",
        "CHATMESH_SLOTS": "64",
        "CHATMESH_SCRIPT_TOKENS_PER_S": "15",
        "CHATMESH_SCRIPT_LENGTH": str(TOKENS),
    }
    async with (
        WatchedMesh(broker, folder, env=env, counts=dict.fromkeys(Service, 2)) as mesh,
        Prometheus(program, mesh, folder / "prometheus") as prometheus,
    ):
        with Notebook(folder / "clients.jsonl") as notebook:
            load = Load(mesh, notebook)
            await load.run(CALM)
            await nobody_died(prometheus, mesh, await ends(mesh))
            faults = asyncio.create_task(kill_in_lanes(prometheus, mesh), name="kills")
            await load.run(RESPONSES, faults)
            await faults
        terminals = await ends(mesh)
        await some_died(prometheus, terminals)
    print(f"{len(terminals)} responses, {dict(tokens_of(terminals))} tokens, {dict(outcomes_of(terminals))}")


async def nobody_died(prometheus: Prometheus, mesh: WatchedMesh, terminals: Sequence[AnyTerminal]) -> None:
    """Then what each process counts of itself adds up to what stands in the log."""
    await agreed(prometheus, terminals)
    assert len(terminals) == CALM
    for outcome, count in outcomes_of(terminals).items():
        await comes_to(prometheus, f'chatmesh_responses_total{{outcome="{outcome}"}}', count)
    await comes_to(prometheus, "chatmesh_claims_total", CALM)
    await comes_to(prometheus, 'chatmesh_claims_total{outcome="finished"}', CALM)
    await comes_to(prometheus, "chatmesh_generated_tokens_total", tokens_of(terminals)["output"])
    await comes_to(prometheus, "chatmesh_recorded_responses_total", CALM)
    await comes_to(prometheus, "chatmesh_response_time_to_first_token_seconds_count", CALM)
    await comes_to(prometheus, "gen_ai_server_time_per_output_token_seconds_count", CALM)
    await comes_to(prometheus, 'http_server_request_duration_seconds_count{http_request_method="POST"}', CALM)
    await comes_to(prometheus, "chatmesh_generation_takeovers_total", 0)
    await comes_to(prometheus, "chatmesh_open_responses + chatmesh_waiting_jobs", 0)
    await comes_to(prometheus, "chatmesh_owned_partitions", mesh.partitions)
    await comes_to(prometheus, "chatmesh_verdicts_total", len(await records(mesh, VERDICTS)))
    for topic in (JOURNAL, EVENTS):
        sent = f'messaging_client_sent_messages_total{{messaging_destination_name="{topic.name}"}}'
        await comes_to(prometheus, sent, len(await records(mesh, topic)))


async def some_died(prometheus: Prometheus, terminals: Sequence[AnyTerminal]) -> None:
    """What died took its own counts along, but none of what responses used; what lives saw the deaths."""
    await agreed(prometheus, terminals)
    assert len(terminals) >= RESPONSES
    for recorded in (TOKENS_USED, RESPONSES_USED):
        assert await total(prometheus, f"resets({recorded}[10m])") == 0, "rate() would take it for a new beginning"
    assert 0 < await total(prometheus, "chatmesh_responses_total") <= len(terminals)
    assert 0 < await total(prometheus, "chatmesh_recorded_responses_total") <= len(terminals)
    assert await total(prometheus, 'chatmesh_generation_takeovers_total{reason="silent"}') > 0
    assert await total(prometheus, "chatmesh_partition_takeovers_total") > 0
    assert await total(prometheus, 'chatmesh_stream_resumes_total{transport="sse"}') > 0
