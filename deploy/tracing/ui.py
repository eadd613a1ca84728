"""`python -m deploy.tracing.ui`, the command behind `make trace-ui`: Arize Phoenix on this machine until Ctrl-C.

Spans, and with CHATMESH_TRACE_CONTENT what users wrote, are kept in CHATMESH_DATA_DIR/trace-ui for seven days.
Licence: Elastic 2.0 (Phoenix may be used and changed, but not offered to others as a service); nothing of chatmesh
needs it.
"""

import argparse
import os
import signal
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import httpx

from deploy.brokers.ports import can_bind
from deploy.environments import installed
from deploy.local.announced import running_environment
from deploy.local.errors import RunError
from deploy.local.holding import HeldError, held
from deploy.local.settings import LOOPBACK
from deploy.process import ChildProcess
from deploy.tracing.settings import OTLP_ENDPOINT, TraceUiSettings, ui_lock
from shared.errors import ChatmeshError
from shared.settings import load_settings

_LAUNCHER = Path(__file__).with_name("phoenix_http_only.py")
_START_S = 180.0  # the first start compiles 600 MB of Python
_STOP_S = 10.0
_POLL_S = 0.2
_SAY_EVERY_S = 10.0
_KEPT_DAYS = 7


def main() -> int:
    """Exit status 0 after Ctrl-C, 1 with one line for whatever kept it from running."""
    argparse.ArgumentParser(
        prog="make trace-ui",
        description=__doc__,
        epilog="Settings are environment variables: CHATMESH_TRACE_UI_PORT (6006), CHATMESH_DATA_DIR (.chatmesh).",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    try:
        _run(load_settings(TraceUiSettings), stop)
    except ChatmeshError as error:
        if not stop.is_set():  # what Ctrl-C broke off is no error
            print(f"error: {error}", file=sys.stderr)
            return 1
    return 0


def _run(settings: TraceUiSettings, stop: threading.Event) -> None:
    """Raises RunError, InstallError."""
    with ExitStack() as holding:
        _hold(settings, holding)
        if not can_bind(settings.trace_ui_port):
            raise RunError(
                f"port {settings.trace_ui_port} is taken by another program; choose another one: "
                f"CHATMESH_TRACE_UI_PORT={settings.trace_ui_port + 1} make trace-ui"
            )
        programs = installed("tracing", "trace-ui", _announce_install)
        ui = _process(settings, programs)
        holding.callback(ui.stop, _STOP_S)
        ui.start()
        _wait_until_up(settings, ui, stop)
        if not stop.is_set():
            print(_hints(settings), flush=True)
            _watch(ui, stop)
        print("stopping the trace UI", flush=True)


def _hold(settings: TraceUiSettings, holding: ExitStack) -> None:
    """From now on a `make run` exports here; what it sends before the UI listens waits in its queue."""
    try:
        holding.enter_context(held(ui_lock(settings.data_dir), {"address": settings.ui_address}))
    except HeldError as error:
        at = "is being started by another process" if error.holder is None else f"runs at {error.holder['address']}"
        raise RunError(f"the trace UI of this folder already {at}") from error
    except OSError as error:
        raise RunError(f"cannot write to {settings.data_dir} (CHATMESH_DATA_DIR): {error}") from error


def _announce_install() -> None:
    print(
        "installing Arize Phoenix into build/trace-ui (600 MB, once). Its licence is Elastic 2.0; nothing else of "
        "chatmesh needs it ...",
        flush=True,
    )


def _process(settings: TraceUiSettings, programs: Path) -> ChildProcess:
    """Phoenix on the loopback interface, which asks nobody on the internet for anything."""
    settings.ui_dir.mkdir(parents=True, exist_ok=True)
    decided = {
        "PHOENIX_HOST": LOOPBACK,
        "PHOENIX_PORT": str(settings.trace_ui_port),
        "PHOENIX_WORKING_DIR": str(settings.ui_dir.resolve()),
        "PHOENIX_TELEMETRY_ENABLED": "false",
        "PHOENIX_ALLOW_EXTERNAL_RESOURCES": "false",
        "PHOENIX_DISABLE_AGENT_ASSISTANT": "true",
        "PHOENIX_ENABLE_MCP_SERVER": "false",
        "PHOENIX_ALLOWED_SANDBOX_PROVIDERS": "NONE",
        "PHOENIX_LOG_MIGRATIONS": "false",
        "PHOENIX_DEFAULT_RETENTION_POLICY_DAYS": str(_KEPT_DAYS),
        "PYTHONUNBUFFERED": "1",
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    argv = [str(programs / "python"), str(_LAUNCHER)]
    return ChildProcess(argv, log_path=settings.ui_log, env={**inherited, **decided})


def _wait_until_up(settings: TraceUiSettings, ui: ChildProcess, stop: threading.Event) -> None:
    """Return once the UI answers, or is to stop. Raises RunError."""
    begun = said = time.monotonic()
    print("starting the trace UI ...", flush=True)
    while not stop.wait(_POLL_S):
        _raise_if_ended(ui)
        if _answers(settings.ui_address):
            return
        now = time.monotonic()
        if now - begun > _START_S:
            raise RunError(f"the trace UI does not answer after {_START_S:g} s; its log: {ui.log_path}")
        if now - said > _SAY_EVERY_S:
            said = now
            print(f"  still starting, {now - begun:.0f} s (the first time takes longest)", flush=True)


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/healthz", timeout=2.0, trust_env=False).status_code == httpx.codes.OK
    except httpx.TransportError:  # it does not listen yet
        return False


def _watch(ui: ChildProcess, stop: threading.Event) -> None:
    while not stop.wait(_POLL_S):
        _raise_if_ended(ui)


def _raise_if_ended(ui: ChildProcess) -> None:
    if not ui.running:
        lines = "\n".join(f"  | {line}" for line in ui.log_tail(20))
        raise RunError(f"the trace UI has ended with exit code {ui.exit_code}. Its last lines:\n{lines}")


def _hints(settings: TraceUiSettings) -> str:
    run = running_environment(settings.data_dir)
    if not run:
        now = "`make run` of this folder exports to it when it is started from now on."
    elif OTLP_ENDPOINT in run:
        now = "The `make run` of this folder exports to it."
    else:
        now = "The `make run` of this folder was started before and exports nothing: start it again."
    return f"""
traces: {settings.ui_address}   (Arize Phoenix, on this machine only)

{now}
Services started otherwise: {OTLP_ENDPOINT}={settings.ui_address}
To see whether a response leaves a whole trace: make trace-check
Kept for {_KEPT_DAYS} days in {settings.ui_dir}. Ctrl-C ends it."""


if __name__ == "__main__":
    sys.exit(main())
