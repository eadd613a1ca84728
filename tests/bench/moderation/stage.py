"""`--only moderation`: what a window costs, and what models cost a mesh under real streams."""

import argparse
import asyncio
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deploy.brokers import Broker
from services.moderation.policy import DEFAULT_POLICY, load_policy
from shared.records import Verdict
from shared.topics import VERDICTS
from tests.bench.checkpoint import checkpoint_of
from tests.bench.cpu import CpuMeter
from tests.bench.moderation.figures import Round, Run, Waits, WindowCost, mesh_table, window_table
from tests.bench.systems import ROOT, Settings, mesh_system
from tests.bench.workload import prompts, summary
from tests.support.logs import records
from tests.support.mesh import POLICY as PATTERNS
from tests.support.mesh import Mesh


def moderation(arguments: argparse.Namespace, broker: Broker) -> tuple[str, dict[str, Any]]:
    """The tables, and all figures for JSON. Raises BenchError, BrokerError, SettingsError."""
    costs, runs_on = _costs()
    model = checkpoint_of(arguments.model, ROOT / "build" / "bench-models")
    settings = Settings(model, arguments.said, arguments.threads)
    rounds = asyncio.run(_rounds(arguments, settings, broker))
    title = f"{model.name}, {arguments.threads} threads, {broker.name}, {arguments.rounds} rounds"
    shown = f"{title}\n\n{window_table(costs, runs_on)}\n\n{mesh_table(rounds)}"
    return shown, {
        "runs_on": runs_on,
        "windows": [asdict(cost) for cost in costs],
        "rounds": [[asdict(run) for run in each] for each in rounds],
    }


def _costs() -> tuple[list[WindowCost], str]:
    """On one thread of torch's. It is loaded here, for nothing else in the bench's own process needs it."""
    import torch

    from services.moderation.backends.encoder.classifier import WindowClassifier
    from tests.bench.moderation.windows import processor, window_costs

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        classifier = WindowClassifier.load()
        classifier.settle()
        return window_costs(classifier), processor(classifier.encoder)
    finally:
        torch.set_num_threads(threads)


async def _rounds(arguments: argparse.Namespace, settings: Settings, broker: Broker) -> list[Round]:
    rounds = []
    for number in range(1, arguments.rounds + 1):
        print(f"round {number} of {arguments.rounds}: moderation by patterns, then by models", file=sys.stderr)
        runs = [await _run(broker, settings, file, arguments.moderated, number) for file in (PATTERNS, DEFAULT_POLICY)]
        rounds.append((runs[0], runs[1]))
    return rounds


async def _run(broker: Broker, settings: Settings, policy: Path, streams: int, salt: int) -> Run:
    """`streams` answers at once; both policies of a round hear the same prompts."""
    env = {**settings.engine(), "OMP_NUM_THREADS": str(settings.threads), "CHATMESH_POLICY": str(policy)}
    with tempfile.TemporaryDirectory(prefix="chatmesh-bench-") as folder:
        async with Mesh(broker, Path(folder), env=env) as mesh, mesh_system(mesh, settings, broker) as system:
            await system.measure(prompts(2, salt * 1000 + 999))  # what is loaded on first use is not measured
            meter = CpuMeter(system.pids)
            level = summary(streams, await system.measure(prompts(streams, salt)), meter.seconds())
            said = [envelope.record for envelope in await records(mesh, VERDICTS)]
    streaming = load_policy(policy).streaming
    waits = Waits.of([verdict for verdict in said if isinstance(verdict, Verdict)])
    run = Run(policy.stem, streaming.hold_back, streaming.checkpoint, level, waits)
    print(f"  {run.policy}: {level.tokens_per_s:.1f} tokens/s, backends {waits.median_ms:.0f} ms", file=sys.stderr)
    return run
