"""`python -m deploy.local`, the command behind `make run`: a broker and the four services here, until Ctrl-C."""

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence

from deploy.local.runner import run
from deploy.local.screen import open_screen
from deploy.local.settings import LocalSettings
from shared.errors import SettingsError
from shared.settings import describe_settings, load_settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 after a signal, 1 when something failed, 2 for arguments, of which there are none."""
    _parser().parse_args(arguments)
    screen = open_screen()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what fails for good is told by the exception
    try:
        settings = load_settings(LocalSettings)
    except SettingsError as error:
        screen.say(f"error: {error}")
        return 1
    return asyncio.run(run(settings, screen))


def _parser() -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog="make run",
        description=__doc__,
        epilog="Settings are environment variables. Besides these the services take theirs, which `python -m "
        "services.gateway --help` lists (and moderation, inference, history):\n\n" + describe_settings(LocalSettings),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


if __name__ == "__main__":
    sys.exit(main())
