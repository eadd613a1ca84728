"""All scenarios in turn on one mesh, and the checker's judgement over everything at the end."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deploy.brokers import Broker
from shared.heartbeats import ClusterWatcher
from shared.topics import Service
from tests.chaos.checker import counts
from tests.chaos.evidence import Violation
from tests.chaos.figures import Row
from tests.chaos.observations import Notebook, now
from tests.chaos.scenarios import logs
from tests.chaos.scenarios.forbidden import screened
from tests.chaos.scenarios.freeing import abandoned, cancels
from tests.chaos.scenarios.jobs import LOOP_DIED, duplicated_job, joining_worker, poison_job
from tests.chaos.scenarios.next_turn import paused_recorder, paused_replica
from tests.chaos.scenarios.readers import followers, heirs
from tests.chaos.scenarios.rules import complaints
from tests.chaos.scenarios.slow_reader import slow_readers
from tests.chaos.scenarios.stage import GRACE_S, LAG_LIMIT_S, POISON, SCREENING, TOKENS_PER_S, Outcome, Stage
from tests.support.mesh import Mesh

Scenario = Callable[[Stage], Awaitable[Outcome]]
Progress = Callable[[str], None]

SCENARIOS: Mapping[str, Scenario] = {
    "slow readers": slow_readers,
    "followers": followers,
    "forbidden words under faults": screened,
    "duplicated job": duplicated_job,
    "poison job": poison_job,
    "joining worker": joining_worker,
    "next turn, history paused": paused_replica,
    "next turn, store locked": paused_recorder,
    "cancel": cancels,
    "abandoned": abandoned,
    "heirs of a gateway": heirs,  # leaves slow workers behind
}


@dataclass(frozen=True)
class Report:
    """What the scenarios found by name, and what the checker found over all of them."""

    outcomes: Mapping[str, Outcome]
    checked: Sequence[Violation]

    @property
    def violations(self) -> list[Violation]:
        """All."""
        return [*(v for outcome in self.outcomes.values() for v in outcome.violations), *self.checked]

    @property
    def rows(self) -> list[Row]:
        """All that was measured."""
        return [row for outcome in self.outcomes.values() for row in outcome.rows]

    def as_json(self) -> dict[str, Any]:
        """All figures; waits in seconds."""
        return {
            "violations": {name: len(outcome.violations) for name, outcome in self.outcomes.items()},
            "checked": counts(self.checked),
            "details": [str(violation) for violation in self.violations],
            "waits": [asdict(row) for row in self.rows],
        }


async def run_scenarios(
    broker: Broker, folder: Path, *, only: Collection[str] = (), progress: Progress = print
) -> Report:
    """Run them (or `only` those) one after the other. Raises AssertionError when the mesh does not start or heal."""
    policy = folder / "policy.yaml"
    policy.write_text(SCREENING.policy("scenarios"))
    env = {
        "CHATMESH_ENGINE": "scripted",
        "CHATMESH_SCRIPT_TOKENS_PER_S": str(TOKENS_PER_S),
        "CHATMESH_SCRIPT_POISON": POISON,
        "CHATMESH_SLOTS": "256",
        "CHATMESH_POLICY": str(policy),
        "CHATMESH_LAG_LIMIT_S": str(LAG_LIMIT_S),
        "CHATMESH_FOREGROUND_GRACE_S": str(GRACE_S),
        "CHATMESH_LOG_FORMAT": "json",
    }
    outcomes: dict[str, Outcome] = {}
    async with AsyncExitStack() as stack:
        mesh = await stack.enter_async_context(Mesh(broker, folder, env=env, counts=dict.fromkeys(Service, 2)))
        watcher = ClusterWatcher(mesh.settings, Service.GATEWAY)
        stack.push_async_callback(watcher.stop)
        await watcher.start()
        notebook = stack.enter_context(Notebook(folder / "scenarios.jsonl"))
        stage = Stage(mesh, watcher.cluster, notebook)
        for name, scenario in SCENARIOS.items():
            if not only or name in only:
                begun = now()
                outcomes[name] = await scenario(stage)
                progress(f"{name}: {now() - begun:.1f} s, {len(outcomes[name].violations)} violations")
        checked = await stage.check()
    for service, lines in logs.service_logs(mesh).items():
        checked += complaints(service, lines, expected=(LOOP_DIED,))
    return Report(outcomes, checked)


def table(report: Report) -> str:
    """Markdown: what was measured, and what was found by each scenario and by the checker over all of them."""
    head = ["| scenario: what was measured | times | streams | median | p99 | longest |", "|---|---|---|---|---|---|"]
    rows = [
        f"| {r.fault} | {r.faults} | {r.streams} | {r.median_s:.2f} s | {r.p99_s:.2f} s | {r.max_s:.2f} s |"
        for r in report.rows
    ]
    found = {name: len(outcome.violations) for name, outcome in report.outcomes.items()}
    found["checker over all"] = len(report.checked)
    return "\n".join([*head, *rows, "", "violations: " + ", ".join(f"{name} {n}" for name, n in found.items())])
