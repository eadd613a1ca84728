"""Metrics agree with the log: exactly where nobody dies, and as for what responses used, whoever dies.

`Watching` is a Prometheus as small as this needs it: it scrapes every process twice a second, knows nothing of those
that are gone, and makes of it what docs/metrics.md says.
"""

import asyncio
import contextlib
import signal
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
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
from tests.support.scraping import Samples, management_url, scrape

MODEL = "SmolLM2-135M-Instruct"
TOKENS, SHORT_TOKENS = 20, 7
CALM, RESPONSES, CONCURRENT = 40, 200, 16
PATIENCE_S = 60.0
SCRAPE_EVERY_S = 0.5
AGREED_S = 20.0
"""For so long metrics may be behind: history counts once a second, and who takes a partition over must join first."""
# Side by side, each lane one after the other. Inference last: what its owners count then is there to be read.
LANES = ((Service.GATEWAY, Service.MODERATION, Service.INFERENCE), (Service.HISTORY, Service.HISTORY))

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


# -- what metrics say ----------------------------------------------------------------------------------------


@dataclass
class Watching:
    """What was scraped of a mesh. Totals of usage: the highest of each partition that any instance ever showed."""

    mesh: Mesh
    latest: dict[str, Samples] = field(default_factory=dict)
    _tokens: dict[tuple[str, ...], float] = field(default_factory=dict)
    _responses: dict[tuple[str, ...], float] = field(default_factory=dict)

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(SCRAPE_EVERY_S)

    async def look(self) -> None:
        """One scrape of every process that answers."""
        for replica in [r for r in self.mesh.replicas if r.process.running]:
            with contextlib.suppress(AssertionError, httpx.HTTPError):  # it starts, or has just been killed
                self.latest[replica.id] = samples = await scrape(management_url(replica))
                _raise(self._tokens, samples.by("chatmesh_usage_tokens_total", "gen_ai_token_type", PARTITION))
                _raise(self._responses, samples.by("chatmesh_usage_responses_total", "outcome", PARTITION))

    @property
    def tokens(self) -> Totals:
        return _summed(self._tokens)

    @property
    def responses(self) -> Totals:
        return _summed(self._responses)

    def total(self, name: str, **labels: str) -> float:
        """The sum over the processes that live, each as it was seen last."""
        living = {replica.id for replica in self.mesh.replicas}
        return sum(samples.total(name, **labels) for who, samples in self.latest.items() if who in living)


PARTITION = "messaging_destination_partition_id"


def _raise(highest: dict[tuple[str, ...], float], seen: dict[tuple[str, ...], float]) -> None:
    for labels, value in seen.items():
        highest[labels] = max(value, highest.get(labels, 0))


def _summed(highest: dict[tuple[str, ...], float]) -> Totals:
    found: Totals = Counter()
    for (kind, _), value in highest.items():
        found[kind] += int(value)
    return found


@contextlib.asynccontextmanager
async def watched(mesh: Mesh) -> AsyncIterator[Watching]:
    watching = Watching(mesh)
    task = asyncio.create_task(watching.watch(), name="scrapes")
    try:
        yield watching
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def agreed(watching: Watching, terminals: Sequence[AnyTerminal]) -> None:
    """Usage by the metrics equals usage by the log, in time; raises AssertionError with both where it does not."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(AGREED_S):
            while watching.tokens != tokens_of(terminals) or watching.responses != outcomes_of(terminals):
                await asyncio.sleep(SCRAPE_EVERY_S)
    assert watching.tokens == tokens_of(terminals)
    assert watching.responses == outcomes_of(terminals)


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


async def kill_in_lanes(mesh: Mesh) -> None:
    async with asyncio.TaskGroup() as group:
        for services in LANES:
            group.create_task(kill(mesh, services))


async def kill(mesh: Mesh, services: Sequence[Service]) -> None:
    """One after the other, a replica of each dies by SIGKILL while streams run, and another one comes."""
    for service in services:
        await asyncio.sleep(1.0)
        victim = mesh.of(service)[0]
        victim.process.signal(signal.SIGKILL)
        await asyncio.sleep(OBSERVE_S)
        mesh.retire(victim)
        mesh.add(service)
        await mesh.wait_ready(service=service)


@pytest.mark.timeout(240)  # against a hang; it takes less than a minute on two quiet cores
async def test_metrics_agree_with_the_log(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder: Path = tmp_path_factory.mktemp("metrics")
    env = {
        "CHATMESH_ENGINE": "scripted",
        "CHATMESH_SLOTS": "64",
        "CHATMESH_SCRIPT_TOKENS_PER_S": "15",
        "CHATMESH_SCRIPT_LENGTH": str(TOKENS),
        "CHATMESH_MANAGEMENT_PORT": "0",
    }
    async with Mesh(broker, folder, env=env, counts=dict.fromkeys(Service, 2)) as mesh, watched(mesh) as watching:
        with Notebook(folder / "clients.jsonl") as notebook:
            load = Load(mesh, notebook)
            await load.run(CALM)
            await agreed(watching, await ends(mesh))
            await _nobody_died(mesh, watching)
            faults = asyncio.create_task(kill_in_lanes(mesh), name="kills")
            await load.run(RESPONSES, faults)
            await faults
        terminals = await ends(mesh)
        await agreed(watching, terminals)
        await _some_died(watching, terminals)
    print(f"{len(terminals)} responses, {dict(tokens_of(terminals))} tokens, {dict(outcomes_of(terminals))}")


async def _nobody_died(mesh: Mesh, watching: Watching) -> None:
    """Then what each process counts of itself adds up to what stands in the log."""
    terminals = await ends(mesh)
    assert len(terminals) == CALM
    tokens = tokens_of(terminals)
    await watching.look()
    for outcome, count in outcomes_of(terminals).items():
        assert watching.total("chatmesh_responses_total", outcome=outcome) == count
    assert watching.total("chatmesh_claims_total", outcome="finished") == CALM
    assert watching.total("chatmesh_generated_tokens_total") == tokens["output"]
    assert watching.total("chatmesh_recorded_responses_total") == CALM
    assert watching.total("chatmesh_response_time_to_first_token_seconds_count") == CALM
    assert watching.total("chatmesh_response_time_per_output_token_seconds_count") == CALM
    assert watching.total("http_server_request_duration_seconds_count", http_request_method="POST") == CALM
    assert watching.total("chatmesh_generation_takeovers_total") == 0
    assert watching.total("chatmesh_open_responses") == watching.total("chatmesh_waiting_jobs") == 0
    assert watching.total("chatmesh_owned_partitions") == mesh.partitions
    assert watching.total("chatmesh_verdicts_total") == len(await records(mesh, VERDICTS))
    for topic in (JOURNAL, EVENTS):
        sent = watching.total("messaging_client_sent_messages_total", messaging_destination_name=topic.name)
        assert sent == len(await records(mesh, topic))


async def _some_died(watching: Watching, terminals: Sequence[AnyTerminal]) -> None:
    """What died took its own counts along; what lives counted no more than there is, and saw the deaths."""
    await watching.look()
    assert len(terminals) >= RESPONSES
    assert 0 < watching.total("chatmesh_responses_total") <= len(terminals)
    assert 0 < watching.total("chatmesh_recorded_responses_total") <= len(terminals)
    assert watching.total("chatmesh_generation_takeovers_total", reason="silent") > 0
    assert watching.total("chatmesh_partition_takeovers_total") > 0
    assert watching.total("chatmesh_stream_resumes_total", transport="sse") > 0
