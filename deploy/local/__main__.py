"""`python -m deploy.local`, the command behind `make run`."""

import asyncio
import logging
import sys

from deploy.local.runner import run
from deploy.local.screen import open_screen
from deploy.local.settings import LocalSettings
from shared.errors import SettingsError
from shared.settings import load_settings


def main() -> int:
    screen = open_screen()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what fails for good is told by the exception
    try:
        settings = load_settings(LocalSettings)
    except SettingsError as error:
        screen.say(f"error: {error}")
        return 1
    return asyncio.run(run(settings, screen))


if __name__ == "__main__":
    sys.exit(main())
