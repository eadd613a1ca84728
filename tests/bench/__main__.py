"""`python -m tests.bench`: what the mesh costs on Apache Kafka. Nothing here fails a test.

compare   latency and throughput against its own engine and against `transformers serve`
cpu       CPU time per token of worker, owner and gateway at full rate, each beside a bare aiokafka loop
idle      memory of open streams in which nothing happens
moderation
          a window's cost, and that of models to a mesh under streams: the default policy against patterns alone
history   contexts, recording and pages by store, and what others feel of a store that is stopped
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deploy.brokers import Broker
from deploy.brokers.port import BrokerError
from deploy.brokers.select import KAFKA, SUITES, broker_for_suite
from deploy.stores.select import SUITES as STORES
from shared.errors import ChatmeshError
from tests.bench.compare import compare
from tests.bench.history.places import default_places
from tests.bench.history.stage import history
from tests.bench.idle import idle_streams, idle_table
from tests.bench.load import BenchError
from tests.bench.moderation.stage import moderation
from tests.bench.systems import ROOT
from tests.bench.tokens.components import COMPONENTS
from tests.bench.tokens.cost import Measured, cost_table, middle
from tests.bench.tokens.rate import TokenLoad

SYSTEMS = ("engine", "mesh", "serve")
Stage = Callable[[argparse.Namespace, Broker], tuple[str, dict[str, Any]]]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(STAGES), default=list(STAGES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--broker", choices=SUITES, default=KAFKA)
    parser.add_argument("--output", type=Path, default=ROOT / "build", help="folder of bench-<stage>.json")
    group = parser.add_argument_group("compare")
    group.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32], help="levels; the first should be 1")
    group.add_argument("--tokens", type=int, default=64, help="length of every answer")
    group.add_argument("--singles", type=int, default=5, help="answers at one stream, one after another")
    group.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    group.add_argument("--hold-back", type=int, default=0, help="code points that the mesh's policy holds back")
    group.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings of the mesh's services")
    group.add_argument("--serve-page", type=int, default=256, help="page of transformers serve (256: its default)")
    group.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    group.add_argument("--model", default="", help="as CHATMESH_MODEL")
    group = parser.add_argument_group("cpu")
    group.add_argument("--components", nargs="+", choices=list(COMPONENTS), default=list(COMPONENTS))
    group.add_argument("--rate", type=int, default=5000, help="tokens a second over all streams")
    group.add_argument("--rate-streams", type=int, default=500, help="streams that share the rate")
    group.add_argument("--partitions", type=int, default=32)
    group.add_argument("--window", type=float, default=20.0, help="seconds that are measured, after 4 to settle")
    group = parser.add_argument_group("idle")
    group.add_argument("--idle-streams", type=int, default=10_000)
    group.add_argument("--protocols", nargs="+", choices=("sse", "websocket"), default=["sse", "websocket"])
    group = parser.add_argument_group("moderation")
    group.add_argument("--moderated", type=int, default=32, help="streams at once")
    group.add_argument("--said", type=int, default=128, help="tokens of every answer")
    group = parser.add_argument_group("history")
    group.add_argument("--stores", nargs="+", choices=STORES, default=default_places(), help="MONGODB_URL adds its own")
    group.add_argument("--dialogues", type=int, default=20, help="chats whose next context is timed")
    group.add_argument("--turns", type=int, default=50, help="turns of each")
    group.add_argument("--responses", type=int, default=2000, help="responses that are recorded")
    group.add_argument("--items", type=int, default=100_000, help="items of the conversation that is paged through")
    group.add_argument("--requests", type=int, default=120, help="answers with the store, and as many without it")
    return parser.parse_args()


def cpu(arguments: argparse.Namespace, broker: Broker) -> tuple[str, dict[str, Any]]:
    """Rounds of every component, the median round of each."""
    load = TokenLoad(arguments.rate_streams, arguments.rate, arguments.partitions, window_s=arguments.window)
    rounds: dict[str, list[Measured]] = {name: [] for name in arguments.components}
    for number in range(1, arguments.rounds + 1):
        for name in arguments.components:
            print(f"round {number} of {arguments.rounds}: CPU per token of {name}", file=sys.stderr)
            rounds[name].append(asyncio.run(COMPONENTS[name](broker, load)))
    title = f"{load.streams} streams, {load.partitions} partitions, {broker.name}, {arguments.rounds} rounds"
    figures = {name: [asdict(measured) for measured in several] for name, several in rounds.items()}
    shown = cost_table([middle(several) for several in rounds.values()])
    return f"{title}\n\n{shown}", {"load": asdict(load), "broker": broker.name, "rounds": figures}


def idle(arguments: argparse.Namespace, broker: Broker) -> tuple[str, dict[str, Any]]:
    """Once for each protocol: memory hardly varies."""
    found = []
    for protocol in arguments.protocols:
        print(f"idle streams: {protocol}", file=sys.stderr)
        found.append(asyncio.run(idle_streams(broker, arguments.idle_streams, protocol)))
    return idle_table(found), {"broker": broker.name, "idle": [asdict(each) for each in found]}


STAGES: dict[str, Stage] = {"compare": compare, "cpu": cpu, "idle": idle, "moderation": moderation, "history": history}


def main() -> int:
    arguments = _arguments()
    arguments.output.mkdir(parents=True, exist_ok=True)
    try:
        with broker_for_suite(arguments.broker) as broker:
            for name in arguments.only:
                shown, figures = STAGES[name](arguments, broker)
                (arguments.output / f"bench-{name}.json").write_text(json.dumps(figures, indent=1))
                print(f"{shown}\n")
    except (BenchError, BrokerError, ChatmeshError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
