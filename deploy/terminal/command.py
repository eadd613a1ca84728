"""What the three commands have in common: whom they talk to, and how they end."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TypeVar

from deploy.local.announced import running_environment
from deploy.local.running import command_environment
from deploy.local.settings import LocalSettings
from shared.errors import ChatmeshError
from shared.settings import MeshSettings, describe_settings, load_settings
from shared.telemetry import setup_logging

T = TypeVar("T")

BROKEN_PIPE_STATUS = 141
"""As a shell reports a process that SIGPIPE ended."""
INTERRUPTED_STATUS = 130
"""As a shell reports a process that SIGINT ended."""
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tabs and line feeds, marks of writing direction, and halves of characters."""
_SHOWN = ("KAFKA_", "CHATMESH_NAMESPACE", "CHATMESH_REQUEST_TIMEOUT_MS", "CHATMESH_LOG_LEVEL")


def broker_settings() -> MeshSettings:
    """How to reach the broker of `make run` in this folder, else that of the environment. Raises SettingsError."""
    of_run = running_environment(load_settings(LocalSettings).data_dir)
    os.environ.update(command_environment(os.environ, of_run))
    settings = load_settings(MeshSettings)
    setup_logging(settings)
    return settings


def described_settings() -> str:
    """The variables that say where the broker is, for `--help`."""
    lines = describe_settings(MeshSettings).splitlines()
    return "\n".join(line for line in lines if line.strip().startswith(_SHOWN))


def run(main: Callable[[], Awaitable[int]]) -> int:
    """Run a command to its end and return its exit status; errors of ours, and of the system, become one line."""
    if sys.stdout is None:
        print("error: standard output is closed", file=sys.stderr)
        return 1
    try:
        return _written(main)
    except KeyboardInterrupt:
        return INTERRUPTED_STATUS
    except BrokenPipeError:  # whoever read this, `head` say, has enough
        _write_no_more()
        return BROKEN_PIPE_STATUS
    except OSError as error:  # no space is left where standard output goes, say
        _write_no_more()
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ChatmeshError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _written(main: Callable[[], Awaitable[int]]) -> int:
    """The exit status, once all that was printed has left."""
    try:
        return asyncio.run(_as_coroutine(main))
    finally:
        sys.stdout.flush()


def _write_no_more() -> None:
    """Python writes what is left as it ends, and would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def at_a_terminal() -> bool:
    """Whether somebody can be asked on standard input."""
    return sys.stdin is not None and sys.stdin.isatty()


async def blocking(work: Callable[[], T]) -> T:
    """What `work` comes to, which blocks the loop until then, as a question does. Ctrl-C ends it: under asyncio's own
    handler, which only cancels the task, it would go on until it is done."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        await asyncio.sleep(0)  # where Ctrl-C came before, this ends the task
        return work()
    finally:
        signal.signal(signal.SIGINT, before)


async def _as_coroutine(main: Callable[[], Awaitable[int]]) -> int:
    return await main()


def printable(text: str) -> str:
    """The text without what would steer a terminal or turn what stands beside it around: that is spelled out."""
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def printable_json(text: str) -> str:
    """The same of what JSON holds in its strings, in escapes of its own: it is read as before."""
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def shortened(text: str, width: int) -> str:
    """One line of at most `width` characters."""
    line = " ".join(printable(text).split())
    return line if len(line) <= width else line[: max(0, width - 1)] + "…"


def clock_time(unix_ms: int) -> str:
    """`2026-11-21 20:18:49Z`; the number where the calendar has no such time: records bear what their writers say."""
    try:
        return f"{datetime.fromtimestamp(unix_ms / 1000, UTC):%Y-%m-%d %H:%M:%SZ}"
    except (ValueError, OverflowError):
        return f"{unix_ms} ms"
