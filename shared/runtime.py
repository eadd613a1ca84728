"""How a service process runs: signals, one clear line for a known error, `--help`."""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from shared.errors import ChatmeshError
from shared.settings import MeshSettings, describe_settings, load_settings
from shared.telemetry import setup_logging

S = TypeVar("S", bound=MeshSettings)
Serve = Callable[[S, asyncio.Event], Awaitable[None]]


def main_of(name: str, summary: str | None, settings_type: type[S], serve: Serve[S]) -> int:
    """The whole of a service's `__main__`: arguments, settings, logging, then `serve(settings, stop)`.

    SIGTERM and SIGINT set `stop`. A ChatmeshError is the operator's business: its message goes to stderr as one
    line. Returns the exit status.
    """
    _parse_no_arguments(name, summary or "", settings_type)
    try:
        settings = load_settings(settings_type)
        setup_logging(settings)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_with_signals(serve, settings))
    except ChatmeshError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parse_no_arguments(name: str, summary: str, settings: type[MeshSettings]) -> None:
    """`--help` prints what the service is and its settings; anything else is refused."""
    parser = argparse.ArgumentParser(
        prog=f"python -m services.{name}",
        description=summary,
        epilog="Settings are environment variables:\n\n" + describe_settings(settings),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args()


async def first_end(stop: asyncio.Event, *tasks: "asyncio.Task[Any]") -> None:
    """Wait for `stop`, or for the first of the tasks to end: a service whose part died must not linger.

    Raises what that task raised.
    """
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        done, _ = await asyncio.wait({stopping, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stopping}:
            task.result()
    finally:
        stopping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await stopping


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if os.name == "nt":
        return None
    import uvloop

    return uvloop.new_event_loop


async def _with_signals(serve: Serve[S], settings: S) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, stop.set)
    await serve(settings, stop)
