"""What a process of the inference service is: the service itself, or a rank that follows the first one."""

import logging
import os
import signal
import sys
import threading
from typing import NoReturn

from services.inference.app import serve
from services.inference.engines.deepspeed import follow
from services.inference.engines.lockstep import HASH_SEED, Place, watch_parent
from services.inference.settings import InferenceSettings
from shared.errors import ChatmeshError, SettingsError
from shared.runtime import LINGER_S, main_of
from shared.settings import load_settings
from shared.telemetry.logs import setup_logging

log = logging.getLogger(__name__)
_SEED = "0"


def main(summary: str | None) -> NoReturn:
    """Be the rank that the environment says, and end the process.

    Not by way of the interpreter's end: a thread that is still in torch's code then, or waits there for a lost rank,
    would abort the process or keep it.
    """
    status = _be_rank(summary)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _be_rank(summary: str | None) -> int:
    try:
        place = Place.of(os.environ)
    except SettingsError as error:
        return _told(error)
    if HASH_SEED not in os.environ and (place is not None or os.environ.get("CHATMESH_ENGINE") == "deepspeed"):
        _start_over_with_seed()
    if place is None:
        return main_of("inference", summary, InferenceSettings, serve)
    if place.rank > 0:
        return _follow(place)
    watch_parent(lambda: os.kill(os.getpid(), signal.SIGTERM))  # torchrun is gone: nobody else can end its ranks
    return main_of("inference", summary, InferenceSettings, serve)


def _start_over_with_seed() -> NoReturn:
    """The same process, whose strings hash as those of the other ranks; an interpreter reads the seed at its start."""
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, HASH_SEED: _SEED})


def _follow(place: Place) -> int:
    """A rank that hears of everything from the first one, also of the end."""
    watch_parent(lambda: os._exit(1))
    try:
        settings = load_settings(InferenceSettings)
        setup_logging(settings, "inference")
        _outlive_signals(settings.shutdown_s + LINGER_S)
        if settings.engine != "deepspeed":
            raise SettingsError(f"{place.ranks} ranks need CHATMESH_ENGINE=deepspeed, not {settings.engine}")
        follow(settings.deepspeed_settings(), place)
    except ChatmeshError as error:
        return _told(error, f"rank {place.rank}: ")
    except Exception as error:
        log.critical("rank %d ends by an error that nobody expected", place.rank, exc_info=error)
        return 1
    return 0


def _outlive_signals(grace_s: float) -> None:
    """The first rank drains while this one takes part; it alone says when that is over, or is late."""

    def asked(*_: object) -> None:
        timer = threading.Timer(grace_s, os._exit, (1,))
        timer.daemon = True
        timer.start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, asked)


def _told(error: ChatmeshError, who: str = "") -> int:
    print(f"error: {who}{error}", file=sys.stderr)  # noqa: T201
    return 1
