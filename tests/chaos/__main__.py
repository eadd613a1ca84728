"""`python -m tests.chaos`: kill everything, again and again, under streams on Apache Kafka, and count what broke.

Then the scenarios: what may go wrong beside deaths, each once. With `--only` (kinds of faults) they are left out,
unless `--scenarios` names some; with `--kills 0` there is nothing but them.
"""

import argparse
import asyncio
import json
import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy.brokers.port import BrokerError
from deploy.brokers.select import KAFKA, SUITES, broker_for_suite
from tests.chaos.campaign import Plan, campaign
from tests.chaos.evidence import Violation
from tests.chaos.faults import FAULTS
from tests.chaos.report import as_json, table, violations
from tests.chaos.scenarios.runner import SCENARIOS, Report, run_scenarios
from tests.chaos.scenarios.runner import table as scenarios_table

BUILD = Path(__file__).resolve().parents[2] / "build"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--streams", type=int, default=1000, help="at least; they go on until the last fault healed")
    parser.add_argument("--kills", type=int, default=200, help="faults of each kind, the kinds in turn")
    parser.add_argument("--minutes", type=float, help="strike no more after so long; the report counts what did")
    parser.add_argument("--overlap", action="store_true", help="strike different services at the same time")
    parser.add_argument("--concurrent", type=int, default=24, help="streams at a time")
    parser.add_argument("--only", nargs="+", choices=[fault.name for fault in FAULTS], help="kinds of faults")
    parser.add_argument("--scenarios", nargs="*", choices=list(SCENARIOS), help="which scenarios (all)", metavar="NAME")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--broker", choices=SUITES, default=KAFKA)
    parser.add_argument("--output", type=Path, default=BUILD / "chaos.json")
    return parser.parse_args()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    arguments = _arguments()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it would report each attempt to reach a killed broker
    faults = tuple(fault for fault in FAULTS if arguments.only is None or fault.name in arguments.only)
    plan = Plan(
        arguments.streams,
        arguments.kills,
        minutes=arguments.minutes,
        overlap=arguments.overlap,
        concurrent=arguments.concurrent,
        seed=arguments.seed,
        faults=faults,
    )
    folder = arguments.output.parent / "chaos"
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, Any] = {}
    broken = False
    try:
        if arguments.kills:
            result = asyncio.run(campaign(arguments.broker, folder, plan, progress=_say))
            found = violations(result)
            _print(table(result, found), found)
            written, broken = as_json(result, found), bool(found or result.trouble)
        if arguments.scenarios is not None or arguments.only is None:
            report = _scenarios(arguments.broker, folder / "scenarios", arguments.scenarios or ())
            _print(scenarios_table(report), report.violations)
            written, broken = written | {"scenarios": report.as_json()}, broken or bool(report.violations)
    except BrokerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    arguments.output.write_text(json.dumps(written, indent=1))
    return 1 if broken else 0


def _scenarios(suite: str, folder: Path, only: Sequence[str]) -> Report:
    shutil.rmtree(folder, ignore_errors=True)  # the logs of an earlier run must not count
    folder.mkdir(parents=True)
    with broker_for_suite(suite) as broker:
        return asyncio.run(run_scenarios(broker, folder, only=only, progress=_say))


def _print(table_text: str, found: Sequence[Violation]) -> None:
    print(table_text)
    for violation in found[:20]:
        print(f"* {violation}")


if __name__ == "__main__":
    sys.exit(main())
