"""The real trace UI: `make trace-ui`, `make run` that exports to it, `make trace-check`, as a person starts them.

Phoenix takes 15 s to install and half a minute to start, so one start serves all that is asked here.
"""

import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import psutil
import pytest

from deploy.brokers.ports import free_port
from tests.support.mesh import POLICY
from tests.support.tools import demanded

INSTALLED = Path(__file__).resolve().parents[2] / "build" / "trace-ui" / ".installed-for"
UP_S = 300
"""On a busy machine, from an empty cache."""
END_S = 60

pytestmark = [
    pytest.mark.skipif(not (demanded() or INSTALLED.exists()), reason="no trace UI here: `make trace-ui` installs it"),
    pytest.mark.timeout(UP_S + 120),
]


class Folder:
    """A data folder with ports of its own, and the commands that share it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.port = free_port()
        self.ui_port = free_port()
        self.started: list[pexpect.spawn] = []

    def start(self, module: str, *arguments: str) -> pexpect.spawn:
        names = ("KAFKA_", "OTEL_", "CHATMESH_")
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(names)}
        chosen = {
            "PORT": str(self.port),
            "CHATMESH_TRACE_UI_PORT": str(self.ui_port),
            "CHATMESH_DATA_DIR": str(self.path),
            "CHATMESH_ENGINE": "scripted",
            "CHATMESH_POLICY": str(POLICY),
        }
        command = pexpect.spawn(
            sys.executable, ["-m", module, *arguments], env={**inherited, **chosen}, encoding="utf-8", timeout=UP_S
        )
        self.started.append(command)
        return command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folder]:
    made = Folder(tmp_path_factory.mktemp("trace-ui"))
    yield made
    for command in made.started:
        command.close(force=True)


def ended(command: pexpect.spawn, within_s: float = END_S) -> int:
    """Its exit status."""
    command.expect(pexpect.EOF, timeout=within_s)
    command.close()
    return int(command.exitstatus if command.exitstatus is not None else -command.signalstatus)


def test_make_run_exports_to_the_ui_and_make_trace_check_finds_a_whole_trace(folder: Folder) -> None:
    ui = folder.start("deploy.tracing.ui")
    ui.expect_exact(f"traces: http://127.0.0.1:{folder.ui_port}")
    ui.expect_exact("exports to it when it is started from now on")
    run = folder.start("deploy.local")
    run.expect("chatmesh is ready at")
    run.expect_exact(f"Traces: http://127.0.0.1:{folder.ui_port}.")

    check = folder.start("deploy.tracing.check", "--timeout", "120")
    check.expect(r"✓ (resp_[0-9a-f]{32}): one trace of 7 spans")
    again = folder.start("deploy.tracing.check", "--response", check.match.group(1))
    assert ended(again) == 0
    unknown = folder.start("deploy.tracing.check", "--response", f"resp_{'0' * 32}", "--timeout", "1")
    unknown.expect_exact("knows nothing of")
    assert ended(unknown) == 1

    second = folder.start("deploy.tracing.ui")
    second.expect_exact(f"error: the trace UI of this folder already runs at http://127.0.0.1:{folder.ui_port}")
    assert ended(second) == 1

    listening = {c.laddr.ip for p in [ui.pid, *children(ui)] for c in psutil.Process(p).net_connections() if listens(c)}
    assert listening == {"127.0.0.1"}

    left = children(ui)
    ui.kill(signal.SIGINT)
    ui.expect_exact("stopping the trace UI")
    assert ended(ui) == 0
    assert not [pid for pid in left if psutil.pid_exists(pid)]
    run.kill(signal.SIGINT)
    assert ended(run, 40) == 0, "a UI that is gone holds up no shutdown"


def children(command: pexpect.spawn) -> list[int]:
    return [child.pid for child in psutil.Process(command.pid).children(recursive=True)]


def listens(connection: Any) -> bool:
    return bool(connection.status == psutil.CONN_LISTEN)


def test_a_taken_port_is_named_before_anything_is_installed(folder: Folder) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        folder.ui_port = taken.getsockname()[1]
        ui = folder.start("deploy.tracing.ui")
        ui.expect_exact(f"error: port {folder.ui_port} is taken by another program")
        assert ended(ui) == 1
