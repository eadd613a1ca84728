"""How a service process runs: signals, one clear line for a known error, `--help`, an end that always comes."""

import argparse
import asyncio
import contextlib
import faulthandler
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

from shared.errors import ChatmeshError
from shared.ids import new_id
from shared.lifetime import HURRY_S, Stop
from shared.settings import MeshSettings, describe_settings, load_settings
from shared.telemetry.logs import log_loop_failure, setup_logging

log = logging.getLogger(__name__)

S = TypeVar("S", bound=MeshSettings)
Serve = Callable[[S, Stop], Awaitable[None]]

LINGER_S = 2.0
"""For what lies behind a service's own deadline: threads that block, the event loop's end, the interpreter's."""


def main_of(name: str, summary: str | None, settings_type: type[S], serve: Serve[S]) -> int:
    """The whole of a service's `__main__`: arguments, settings, logging, then `serve(settings, stop)`.

    SIGTERM and SIGINT ask `stop`; a second one hurries it. A ChatmeshError is the operator's business: its message
    goes to stderr as one line. Returns the exit status: 0 when it ended because it was asked to, whoever was late.
    A process that does not end `LINGER_S` after its deadline is ended, with status 1 if `serve` still ran.
    """
    _parse_no_arguments(name, summary or "", settings_type)
    last_resort = _LastResort()
    try:
        settings = _identified(load_settings(settings_type), name)
        setup_logging(settings, name)
    except ChatmeshError as error:
        return _told(error)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        try:
            runner.run(_with_signals(serve, settings, last_resort))
            status = 0
        except ChatmeshError as error:
            status = _told(error, settings.log_format)
        except KeyboardInterrupt:
            status = 130
        except Exception as error:
            log.critical("%s ends by an error that nobody expected", name, exc_info=error)
            status = 1
        last_resort.arm(LINGER_S, status)
    return status


def _identified(settings: S, name: str) -> S:
    """The settings with the id that the process goes by, in logs, heartbeats, records and metrics."""
    return settings if settings.service_id else settings.model_copy(update={"service_id": new_id(name)})


def _told(error: ChatmeshError, log_format: str = "text") -> int:
    if log_format == "json":
        log.critical("%s", error)
    else:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
    return 1


class _LastResort:
    """Ends the process at a set time, whatever hangs: a signal's sender must not wait for a thread of ours."""

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None

    def arm(self, after_s: float, status: int, *, hung: bool = False) -> None:
        """End with `status` in `after_s` seconds, unless armed anew before. `hung`: show where every thread stands."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(after_s, _exit, (status, hung))
        self._timer.daemon = True
        self._timer.start()


def _exit(status: int, hung: bool) -> None:
    alive = [thread.name for thread in threading.enumerate() if not thread.daemon]
    log.warning("ended by force with status %d while these threads ran: %s", status, ", ".join(alive))
    if hung:
        faulthandler.dump_traceback(all_threads=True)
    logging.shutdown()
    os._exit(status)


def _parse_no_arguments(name: str, summary: str, settings: type[MeshSettings]) -> None:
    """`--help` prints what the service is and its settings; anything else is refused."""
    parser = argparse.ArgumentParser(
        prog=f"python -m services.{name}",
        description=summary,
        epilog="Settings are environment variables:\n\n" + describe_settings(settings),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if os.name == "nt":
        return None
    import uvloop

    return uvloop.new_event_loop


async def _with_signals(serve: Serve[S], settings: S, last_resort: _LastResort) -> None:
    stop = Stop()

    def asked() -> None:
        if stop.hurried.is_set():
            return
        stop.ask()
        left_s = HURRY_S if stop.hurried.is_set() else settings.shutdown_s
        last_resort.arm(left_s + LINGER_S, 1, hung=True)

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(log_loop_failure)
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, asked)
    await serve(settings, stop)
