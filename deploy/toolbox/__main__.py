"""`python -m deploy.toolbox [NAME...]`: fetch or build the programs that check our files, and print where they lie."""

import argparse
import sys
from collections.abc import Sequence

from deploy.toolbox.box import ToolMissingError, tool_path
from deploy.toolbox.tools import TOOLS

_INTERRUPTED = 130  # as shells have it


def main(argv: Sequence[str]) -> int:
    """0 if all are there, 130 after Ctrl-C, else 1."""
    parser = argparse.ArgumentParser(prog="python -m deploy.toolbox", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(TOOLS)}; none: all of them")
    names = parser.parse_args(argv).names or list(TOOLS)
    if unknown := sorted(set(names) - set(TOOLS)):
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(TOOLS)}")
    missing = 0
    for name in names:
        try:
            print(f"{name:<20} {tool_path(name)}", flush=True)
        except ToolMissingError as error:
            missing += 1
            print(error, file=sys.stderr)
        except KeyboardInterrupt:
            return _INTERRUPTED
    return int(missing > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
