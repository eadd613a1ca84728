"""`python -m tests.bench`: the mesh on Apache Kafka against its own engine and against `transformers serve`.

Every round runs each system by itself, one after another, with the same model folder, dtype, threads and cache, on
prompts that no system has seen; the table gives medians over the rounds. Nothing here fails a test.
"""

import argparse
import asyncio
import json
import os
import sys
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict
from pathlib import Path

from deploy.brokers import Broker
from deploy.brokers.port import BrokerError
from deploy.brokers.select import KAFKA, SUITES, broker_for_suite
from services.moderation.policy import DEFAULT_POLICY, load_policy
from tests.bench.checkpoint import checkpoint_of
from tests.bench.cpu import CpuMeter
from tests.bench.load import BenchError
from tests.bench.report import HoldBack, Round, medians, table
from tests.bench.systems import ROOT, Settings, System, bare_engine, serve_trouble, transformers_serve, whole_mesh
from tests.bench.workload import Level, prompts, summary

SYSTEMS = ("engine", "mesh", "serve")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32], help="levels; the first should be 1")
    parser.add_argument("--tokens", type=int, default=64, help="length of every answer")
    parser.add_argument("--singles", type=int, default=5, help="answers at one stream, one after another")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--broker", choices=SUITES, default=KAFKA)
    parser.add_argument("--hold-back", type=int, default=0, help="code points that the mesh's policy holds back")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings of the mesh's services")
    parser.add_argument("--serve-page", type=int, default=256, help="page of transformers serve (256: its default)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--model", default="", help="as CHATMESH_MODEL")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "bench.json")
    return parser.parse_args()


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


def main() -> int:
    arguments = _arguments()
    if "serve" in arguments.systems and (trouble := serve_trouble()):
        print(f"left out: {trouble}", file=sys.stderr)
        arguments.systems.remove("serve")
    model = checkpoint_of(arguments.model, ROOT / "build" / "bench-models")
    settings = Settings(model, arguments.tokens, arguments.threads)
    try:
        with broker_for_suite(arguments.broker) as broker:
            rounds = asyncio.run(_rounds(arguments, settings, broker))
            broker_name = broker.name
    except (BenchError, BrokerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    middle = medians(rounds)
    hold_backs = _hold_backs(middle, arguments.hold_back)
    context = {
        "set": arguments.set,
        "broker": broker_name,
        "model": model.name,
        "threads": arguments.threads,
        "tokens": arguments.tokens,
    }
    print(f"{model.name}, bfloat16, {arguments.threads} threads, {broker_name}, {arguments.rounds} rounds\n")
    print(table(middle, hold_backs))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    report = {
        **context,
        "hold_back": [asdict(h) for h in hold_backs],
        "rounds": [{name: [asdict(level) for level in levels] for name, levels in r.items()} for r in rounds],
    }
    arguments.output.write_text(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
