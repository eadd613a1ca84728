"""`python -m deploy.events COMMAND`: what other teams are promised about our topics.

asyncapi   write docs/asyncapi.yaml, docs/asyncapi-internal.yaml and docs/schemas again (make asyncapi)
page       make the documents pages that a browser shows, in build/asyncapi (needs npm)
diff       what changed since the last release, and whom that breaks; exit status 1 if it breaks anybody
freeze     keep what this release promises, in docs/releases: the next one is held to it
"""

import argparse
import sys
from collections.abc import Callable

from deploy.events import documents
from deploy.events.contract import current_contract, keep, kept
from deploy.events.release import ROOT
from deploy.events.verdict import verdict
from shared.errors import ChatmeshError


def asyncapi() -> int:
    for path in documents.write():
        print(path.relative_to(ROOT))
    return 0


def page() -> int:
    from deploy.events.page import write

    for path in write():
        print(path.relative_to(ROOT))
    return 0


def diff() -> int:
    found = verdict()
    print(found.told())
    return 1 if found.faults else 0


def freeze() -> int:
    if kept() and (found := verdict()).faults:
        print(found.told(), file=sys.stderr)
        return 1
    print(keep(current_contract()))
    return 0


COMMANDS: dict[str, Callable[[], int]] = {each.__name__: each for each in (asyncapi, page, diff, freeze)}


def main(argv: list[str]) -> int:
    """Exit status: 0, 1 for what is wrong, 2 for a wrong command line."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.events", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=COMMANDS)
    try:
        return COMMANDS[parser.parse_args(argv).command]()
    except ChatmeshError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
