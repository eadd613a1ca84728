"""`python -m deploy.terminal.top`: a live view of a mesh."""

import functools
import json
import os
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live

from deploy.local.settings import LocalSettings
from deploy.terminal.command import INTERRUPTED_STATUS, broker_settings, run
from deploy.terminal.top.options import Options, parse
from deploy.terminal.top.rendering import render
from deploy.terminal.top.scrape import urls_of_run
from deploy.terminal.top.view import View
from deploy.terminal.top.watch import Watch, watching
from shared.errors import LogError
from shared.settings import load_settings

_WIDTH_IN_A_PIPE = 120


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0, also after Ctrl-C; 1 if there is no mesh, or a single look hears nobody in it.

    Looks that go on show that nobody is heard, and who comes.
    """
    options = parse(arguments)
    status = run(functools.partial(_main, options))
    return 0 if status == INTERRUPTED_STATUS else status


async def _main(options: Options) -> int:
    named = bool(os.environ.get("KAFKA_BOOTSTRAP_SERVERS"))
    settings = broker_settings()
    of_run = [] if named else urls_of_run(load_settings(LocalSettings).targets_file)
    async with watching(settings, options.metrics or of_run) as watch:
        if options.as_json:
            await _as_json(watch, options)
        elif options.once or not sys.stdout.isatty():
            _console().print(render(_heard(watch.view())))
        else:
            await _live(watch, options)
    return 0


def _heard(view: View) -> View:
    """Raises LogError if there is nobody."""
    if not view.services:
        raise LogError(
            f"no service is heard on the broker at {view.broker}: start a mesh with `make run`, or say "
            "which broker with KAFKA_BOOTSTRAP_SERVERS and CHATMESH_NAMESPACE"
        )
    return view


async def _as_json(watch: Watch, options: Options) -> None:
    while True:
        view = watch.view()
        print(json.dumps((_heard(view) if options.once else view).as_json(), ensure_ascii=False), flush=True)
        if options.once:
            return
        await watch.pause(options.interval_s)


async def _live(watch: Watch, options: Options) -> None:
    with Live(render(watch.view(), brief=True), console=_console(), screen=True, auto_refresh=False) as live:
        while True:
            await watch.pause(options.interval_s)
            live.update(render(watch.view(), brief=True), refresh=True)


def _console() -> Console:
    """As wide as the terminal, at each look anew; in a pipe as COLUMNS says."""
    piped = not sys.stdout.isatty() and not os.environ.get("COLUMNS")
    return Console(highlight=False, width=_WIDTH_IN_A_PIPE if piped else None)


if __name__ == "__main__":
    sys.exit(main())
