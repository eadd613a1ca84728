"""The mesh against its own engine and against `transformers serve`, round by round.

Every round runs each system by itself, one after another, with the same model folder, dtype, threads and cache, on
prompts that no system has seen; the table gives medians over the rounds.
"""

import argparse
import asyncio
import sys
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict
from typing import Any

from deploy.brokers import Broker
from services.moderation.policy import DEFAULT_POLICY, load_policy
from tests.bench.checkpoint import checkpoint_of
from tests.bench.cpu import CpuMeter
from tests.bench.report import HoldBack, Round, medians, table
from tests.bench.systems import ROOT, Settings, System, bare_engine, serve_trouble, transformers_serve, whole_mesh
from tests.bench.workload import Level, prompts, summary


def compare(arguments: argparse.Namespace, broker: Broker) -> tuple[str, dict[str, Any]]:
    """The table, and all figures for JSON. Raises BenchError, BrokerError."""
    if "serve" in arguments.systems and (trouble := serve_trouble()):
        print(f"left out: {trouble}", file=sys.stderr)
        arguments.systems.remove("serve")
    model = checkpoint_of(arguments.model, ROOT / "build" / "bench-models")
    rounds = asyncio.run(_rounds(arguments, Settings(model, arguments.tokens, arguments.threads), broker))
    middle = medians(rounds)
    hold_backs = _hold_backs(middle, arguments.hold_back)
    title = f"{model.name}, bfloat16, {arguments.threads} threads, {broker.name}, {arguments.rounds} rounds"
    return f"{title}\n\n{table(middle, hold_backs)}", {
        "set": arguments.set,
        "broker": broker.name,
        "model": model.name,
        "threads": arguments.threads,
        "tokens": arguments.tokens,
        "hold_back": [asdict(h) for h in hold_backs],
        "rounds": [{name: [asdict(level) for level in levels] for name, levels in r.items()} for r in rounds],
    }


async def _measured(system: System, arguments: argparse.Namespace, salt: int) -> list[Level]:
    await system.measure(prompts(2, salt * 1000 + 999))  # what is loaded or compiled on first use is not measured
    levels = []
    for number, streams in enumerate(arguments.streams):
        asked = prompts(arguments.singles if streams == 1 else streams, salt * 1000 + number)
        meter = CpuMeter(system.pids)
        if streams == 1:
            samples = [sample for prompt in asked for sample in await system.measure([prompt])]
        else:
            samples = await system.measure(asked)
        cpu_s = meter.seconds()
        stages = await system.stages(samples) if system.stages is not None and streams == 1 else {}
        levels.append(summary(streams, samples, cpu_s, stages))
        print(f"  {system.name}, {streams} streams: {levels[-1].tokens_per_s:.1f} tokens/s", file=sys.stderr)
    return levels


def _system(
    name: str, settings: Settings, broker: Broker, arguments: argparse.Namespace
) -> AbstractAsyncContextManager[System]:
    if name == "engine":
        return bare_engine(settings)
    if name == "mesh":
        more = dict(pair.split("=", 1) for pair in arguments.set)
        return whole_mesh(settings, broker, arguments.hold_back, more)
    return transformers_serve(settings, arguments.serve_page)


async def _rounds(arguments: argparse.Namespace, settings: Settings, broker: Broker) -> list[Round]:
    rounds: list[Round] = []
    for number in range(1, arguments.rounds + 1):
        figures: Round = {}
        for name in arguments.systems:
            print(f"round {number} of {arguments.rounds}: {name}", file=sys.stderr)
            async with _system(name, settings, broker, arguments) as system:
                figures[name] = await _measured(system, arguments, salt=number)
        rounds.append(figures)
    return rounds


def _hold_backs(middle: Round, measured: int) -> list[HoldBack]:
    characters = next(iter(middle.values()))[0].characters_per_token
    default = load_policy(DEFAULT_POLICY).streaming.hold_back
    return [
        HoldBack(policy, points, points / characters)
        for policy, points in (("measured", measured), ("default", default))
    ]
