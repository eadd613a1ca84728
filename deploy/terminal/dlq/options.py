"""What can be asked of `make dlq` on the command line."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from deploy.terminal.command import described_settings
from deploy.terminal.dlq.letters import Address, LetterError, parse_address

_WHAT = "TOPIC (all of its queue), TOPIC@NUMBER (one, as `list` names it) or TOPIC/PARTITION@OFFSET (by its origin)"


@dataclass(frozen=True)
class Options:
    """`content`: print the values of records. `again`: also what was sent back already."""

    command: Literal["list", "show", "redrive"]
    addresses: list[Address] = field(default_factory=list)
    as_json: bool = False
    content: bool = False
    again: bool = False
    dry_run: bool = False
    yes: bool = False


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Ends the process with status 2 and a usage message for what nobody can ask."""
    found = _parser().parse_args(arguments)
    given = vars(found)
    return Options(
        command=found.command,
        addresses=found.what,
        **{name: given[name] for name in ("as_json", "content", "again", "dry_run", "yes") if name in given},
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.terminal.dlq",
        description="Dead letters: records that a service could not handle. They may hold what users wrote; that is "
        "printed with --content only. `make dlq ARGS=list` is the same command.",
        epilog=f"WHAT is {_WHAT}.\n\nSettings are environment variables:\n\n{described_settings()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="list | show | redrive")
    listing = commands.add_parser("list", help="one line per letter, with its error")
    showing = commands.add_parser("show", help="all that is known of letters, but their content")
    sending = commands.add_parser("redrive", help="send records back to where they came from")
    for command in (listing, showing, sending):
        command.add_argument(
            "what", nargs="+" if command is sending else "*", type=_address, metavar="WHAT", help=_WHAT
        )
    for command in (listing, showing):
        command.add_argument("--json", action="store_true", dest="as_json", help="one JSON object per letter")
        command.add_argument("--content", action="store_true", help="print the records too: they may hold users' text")
    sending.add_argument("--dry-run", action="store_true", help="only say what would be sent back")
    sending.add_argument("--yes", action="store_true", help="do not ask")
    sending.add_argument("--again", action="store_true", help="also what was sent back already")
    return parser


def _address(text: str) -> Address:
    try:
        return parse_address(text)
    except LetterError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
