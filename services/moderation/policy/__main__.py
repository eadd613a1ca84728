"""`python -m services.moderation.policy check FILE`: what a policy does, or everything that is wrong in it."""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from services.moderation.policy.description import describe, describe_backend
from services.moderation.policy.loading import DEFAULT_POLICY, load_policy
from services.moderation.policy.model import Policy
from shared.errors import SettingsError


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 for a policy that can be used, 1 for one that cannot, whose faults go to stderr."""
    options = _parse(arguments)
    try:
        policy = load_policy(options.file)
        print(describe(policy))
        if options.load and policy.backends:
            asyncio.run(_load(policy))
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m services.moderation.policy", description="Moderation policies.")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser(
        "check",
        help="print what a policy does, or what is wrong in it",
        description="Prints what a policy file does. Exit status 1, and every fault as file:line: key: what to do, "
        "if it cannot be used.",
    )
    check.add_argument("file", nargs="?", type=Path, default=DEFAULT_POLICY, help="policy file (default: %(default)s)")
    check.add_argument(
        "--load", action="store_true", help="also load its models, as a rollout does, and say what they are"
    )
    return parser.parse_args(arguments)


async def _load(policy: Policy) -> None:
    """Start each backend, say what it is, and stop it. Raises SettingsError."""
    from services.moderation.backends.building import build_backend  # backends know policies: not the other way round

    print()
    for name, spec in policy.backends.items():
        backend = build_backend(name, spec)
        began_s = time.monotonic()
        try:
            await backend.start()
            print(describe_backend(backend, time.monotonic() - began_s))
        finally:
            await backend.stop()


if __name__ == "__main__":
    sys.exit(main())
