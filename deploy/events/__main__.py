"""`python -m deploy.events COMMAND`: what other teams are promised about our topics.

asyncapi   write docs/asyncapi.yaml, docs/asyncapi-internal.yaml and docs/schemas again (make asyncapi)
page       make the documents pages that a browser shows, in build/asyncapi (needs npm)
diff       what changed since the last release, and whom that breaks; exit status 1 if it breaks anybody
freeze     keep what this release promises, in docs/releases: the next one is held to it; --again writes the contract
           of a version that is not released yet once more
"""

import argparse
import sys
from collections.abc import Callable

from deploy.events import documents
from deploy.events.contract import current_contract, keep, kept
from deploy.events.release import ROOT, current_version
from deploy.events.verdict import verdict
from shared.errors import ChatmeshError


def asyncapi(_: argparse.Namespace) -> int:
    for path in documents.write():
        print(path.relative_to(ROOT))
    return 0


def page(_: argparse.Namespace) -> int:
    from deploy.events.page import write

    for path in write():
        print(path.relative_to(ROOT))
    return 0


def diff(_: argparse.Namespace) -> int:
    found = verdict()
    print(found.told())
    return 1 if found.faults else 0


def freeze(options: argparse.Namespace) -> int:
    """What is written again is not compared with what it replaces, but with the release before."""
    replaced = current_version() if options.again else None
    if kept(but=replaced) and (found := verdict(but=replaced)).faults:
        print(found.told(), file=sys.stderr)
        return 1
    print(keep(current_contract(), again=options.again))
    return 0


COMMANDS: tuple[Callable[[argparse.Namespace], int], ...] = (asyncapi, page, diff, freeze)


def main(argv: list[str]) -> int:
    """Exit status: 0, 1 for what is wrong, 2 for a wrong command line."""
    options = _parser().parse_args(argv)
    try:
        run: Callable[[argparse.Namespace], int] = options.run
        return run(options)
    except ChatmeshError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.events", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="|".join(each.__name__ for each in COMMANDS))
    for command in COMMANDS:
        made = commands.add_parser(command.__name__)
        made.set_defaults(run=command)
        if command is freeze:
            made.add_argument("--again", action="store_true", help="write that of a version that is not released yet")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
