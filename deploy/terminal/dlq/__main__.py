"""`python -m deploy.terminal.dlq list | show | redrive`: looks after dead letters."""

import functools
import shutil
import sys
from collections.abc import Sequence

from deploy.terminal.command import broker_settings, run
from deploy.terminal.dlq.letters import Letter, chosen
from deploy.terminal.dlq.options import Options, parse
from deploy.terminal.dlq.queues import read_letters
from deploy.terminal.dlq.redriving import Plan, agreed, describe, plan, send_back
from deploy.terminal.dlq.rendering import as_json, render_letter, render_list
from shared.settings import MeshSettings
from shared.topics import DEAD_LETTERS

_WIDTH_IN_A_PIPE = 200
_NOT_AGREED_STATUS = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0; 1 if something went wrong or a letter that was named could not be sent back, 2 if
    nobody agreed to it; 130 after Ctrl-C."""
    options = parse(arguments)
    return run(functools.partial(_main, options))


async def _main(options: Options) -> int:
    settings = broker_settings()
    topics = {address.topic for address in options.addresses} or DEAD_LETTERS.keys()
    letters = await read_letters(settings, topics)
    wanted = chosen(letters, options.addresses)
    if options.command == "redrive":
        return await _redrive(settings, options, plan(wanted, letters, again=options.again))
    for line in _told(options, wanted):
        print(line)
    return 0


def _told(options: Options, letters: list[Letter]) -> list[str]:
    if options.as_json:
        return [as_json(letter, content=options.content) for letter in letters]
    if options.command == "list" or not letters:
        return render_list(letters, _width(), content=options.content)
    return [line for letter in letters for line in render_letter(letter, content=options.content)]


async def _redrive(settings: MeshSettings, options: Options, found: Plan) -> int:
    for line in describe(found) or ["no dead letters"]:
        print(line, flush=True)
    named = [letter for letter, _ in found.refused if any(a.single and a.names(letter) for a in options.addresses)]
    status = 1 if named else 0
    if not found.records or options.dry_run:
        return status
    if not options.yes and not await agreed(len(found.records)):
        return _NOT_AGREED_STATUS
    await send_back(settings, found, print)
    return status


def _width() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDTH_IN_A_PIPE


if __name__ == "__main__":
    sys.exit(main())
