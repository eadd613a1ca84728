"""`python -m services.moderation.policy check FILE`: what a policy does, or everything that is wrong in it."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from services.moderation.policy.description import describe
from services.moderation.policy.loading import DEFAULT_POLICY, load_policy
from services.moderation.policy.source import PolicyError


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 for a policy that can be used, 1 for one that cannot, whose faults go to stderr."""
    parser = argparse.ArgumentParser(prog="python -m services.moderation.policy", description="Moderation policies.")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser(
        "check",
        help="print what a policy does, or what is wrong in it",
        description="Prints what a policy file does. Exit status 1, and every fault as file:line: key: what to do, "
        "if it cannot be used. Models are not loaded and services not asked: that happens when it is rolled out.",
    )
    check.add_argument("file", nargs="?", type=Path, default=DEFAULT_POLICY, help="policy file (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        policy = load_policy(options.file)
    except PolicyError as error:
        print(error, file=sys.stderr)
        return 1
    print(describe(policy))
    return 0


if __name__ == "__main__":
    sys.exit(main())
