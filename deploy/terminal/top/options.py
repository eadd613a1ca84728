"""What can be asked of `make top` on the command line."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from deploy.terminal.command import described_settings


@dataclass(frozen=True)
class Options:
    """`once`: one look. `interval_s`: between two looks."""

    once: bool
    as_json: bool
    interval_s: float
    metrics: list[str]


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Ends the process with status 2 and a usage message for what nobody can ask."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.terminal.top",
        description="What a mesh does, live: its services, what runs and ends, and how far consumer groups lag. `make "
        "top` is the same command. It reads heartbeats and the public log, never what users wrote.",
        epilog="Settings are environment variables:\n\n" + described_settings(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--once", action="store_true", help="one look, as in a pipe, and end")
    parser.add_argument("--json", action="store_true", dest="as_json", help="one JSON object per look, on one line")
    parser.add_argument("--interval", type=_interval, default=1.0, metavar="SECONDS", help="between two looks (1)")
    parser.add_argument(
        "--metrics",
        action="append",
        default=[],
        metavar="URL",
        help="a service's /metrics; several times. Beside `make run` they are found",
    )
    found = parser.parse_args(arguments)
    return Options(found.once, found.as_json, found.interval, found.metrics)


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0.1 and 3600 seconds")
    return seconds
