"""`python -m tests.chaos.store`: kill -9 of history under load on Apache Kafka, then the store against the log."""

import argparse
import asyncio
import logging
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from deploy.brokers.select import KAFKA, SUITES, broker_for_suite
from deploy.stores.select import MONGODB, SQLITE, server_for_tests
from deploy.stores.select import SUITES as STORES
from tests.chaos.store.deaths import Plan, deaths_of_history


def main() -> int:
    """0 if nothing was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.store", description=__doc__)
    parser.add_argument("--responses", type=int, default=2000)
    parser.add_argument(
        "--calm-s", type=float, nargs=2, default=Plan.calm_s, metavar=("MIN", "MAX"), help="peace between two deaths"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--broker", choices=SUITES, default=KAFKA)
    parser.add_argument("--store", choices=STORES, default=SQLITE, help="MONGODB_URL names a MongoDB of yours")
    parser.add_argument("--folder", type=Path, help="where logs and data stay; without it they are removed")
    arguments = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as scratch:
        folder: Path = arguments.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        calm_s = (min(arguments.calm_s), max(arguments.calm_s))
        plan = Plan(arguments.responses, calm_s=calm_s, seed=arguments.seed)
        with broker_for_suite(arguments.broker) as broker, _environment(arguments.store) as env:
            result = asyncio.run(deaths_of_history(broker, folder, plan, env=env))
    for name, figure in result.figures().items():
        print(f"{figure:>10}  {name}")
    for violation in result.violations[:30]:
        print(f"* {violation}")
    return 1 if result.violations else 0


@contextmanager
def _environment(store: str) -> Iterator[Mapping[str, str]]:
    """What history's replicas are told of the store, which runs inside the block."""
    if store != MONGODB:
        yield {}
        return
    with server_for_tests() as server:
        yield {"MONGODB_URL": server.url(f"chaos{uuid4().hex[:12]}")}


if __name__ == "__main__":
    sys.exit(main())
