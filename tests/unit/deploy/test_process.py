"""A child process is asked to end once; what it does about a second request is its own business."""

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.process import ChildProcess

# Says "asked" for each SIGTERM and ends half a second after the first one.
PROGRAM = """
import signal, time
asked = []
signal.signal(signal.SIGTERM, lambda *_: (asked.append(1), print("asked", flush=True)))
print("ready", flush=True)
while not asked:
    time.sleep(0.01)
time.sleep(0.5)
"""


@pytest.fixture
def child(tmp_path: Path) -> Iterator[ChildProcess]:
    process = ChildProcess([sys.executable, "-c", PROGRAM], log_path=tmp_path / "log", env={})
    start(process)
    yield process
    process.kill()


def start(process: ChildProcess) -> None:
    """Return once it has its signal handler."""
    process.start()
    give_up_at = time.monotonic() + 10
    while "ready" not in process.log_text():
        assert time.monotonic() < give_up_at, process.log_text()
        time.sleep(0.01)


@pytest.mark.parametrize("before", ["nothing", "terminate", "signal"])
def test_stopping_asks_once(child: ChildProcess, before: str) -> None:
    if before == "terminate":
        child.terminate()
    elif before == "signal":
        child.signal(signal.SIGTERM)
    child.stop(10)
    assert child.log_text().split() == ["ready", "asked"]
    assert child.exit_code == 0


def test_a_new_start_is_asked_anew(child: ChildProcess) -> None:
    child.stop(10)
    start(child)
    child.stop(10)
    assert child.log_text().split() == ["ready", "asked"]
