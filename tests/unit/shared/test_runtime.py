"""A service process ends when it is asked to, whatever hangs, and says by its status how it went."""

import re
import signal
import subprocess
import sys
import textwrap
import time

import pytest

SERVICE = """
import asyncio, sys, threading, time
from shared.errors import BrokerUnavailableError
from shared.lifetime import Lifetime, Stop
from shared.runtime import main_of
from shared.settings import MeshSettings


async def serve(settings: MeshSettings, stop: Stop) -> None:
    async with Lifetime(stop, settings.shutdown_s) as life:
        {body}


sys.exit(main_of("test", "a service", MeshSettings, serve))
"""
READY = "print('ready', flush=True)"
UNTIL_END = "await life.until_end()"


class Process:
    def __init__(self, *body: str, shutdown_s: float = 5.0) -> None:
        source = SERVICE.format(body=textwrap.indent("\n".join(body), " " * 8).lstrip())
        self._popen = subprocess.Popen(
            [sys.executable, "-c", source],
            env={"CHATMESH_SHUTDOWN_S": str(shutdown_s), "PYTHONPATH": "."},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.took_s = 0.0

    def ready(self) -> "Process":
        assert self._popen.stdout is not None
        assert self._popen.stdout.readline() == "ready\n", self._popen.communicate()
        return self

    def send(self, *signals: signal.Signals) -> "Process":
        self._begun = time.monotonic()
        for number in signals:
            self._popen.send_signal(number)
            time.sleep(0.1)
        return self

    def end(self) -> tuple[int, str]:
        """Exit status and what it said on stderr."""
        try:
            _, said = self._popen.communicate(timeout=30)
        finally:
            self._popen.kill()
        self.took_s = time.monotonic() - getattr(self, "_begun", time.monotonic())
        return self._popen.returncode, said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_ends_with_0(number: signal.Signals) -> None:
    assert Process(READY, UNTIL_END).ready().send(number).end() == (0, "")


def test_an_error_of_ours_is_one_line_and_1() -> None:
    status, said = Process("raise BrokerUnavailableError('no broker answers')").end()
    assert (status, said) == (1, "error: no broker answers\n")


def test_a_bug_is_a_traceback_and_1() -> None:
    status, said = Process("raise ZeroDivisionError('a bug')").end()
    assert status == 1
    assert "Traceback" in said
    assert "ZeroDivisionError" in said
    assert "a bug" not in said, "a foreign error's words may quote what users wrote (shared/telemetry/logs.py)"


def test_a_step_that_is_late_is_named_and_is_no_failure() -> None:
    process = Process("life.at_end('flush', lambda: asyncio.sleep(3600))", READY, UNTIL_END, shutdown_s=0.4)
    status, said = process.ready().send(signal.SIGTERM).end()
    assert status == 0
    assert re.search(r"flush did not end within 0\.[2-9] s: left as it is", said)


def test_a_second_signal_hastens() -> None:
    process = Process("life.at_end('flush', lambda: asyncio.sleep(3600))", READY, UNTIL_END, shutdown_s=600)
    status, said = process.ready().send(signal.SIGTERM, signal.SIGINT).end()
    assert (status, "hurrying" in said) == (0, True)
    assert process.took_s < 20


def test_a_thread_that_never_ends_does_not_keep_the_process() -> None:
    process = Process("life.at_end_blocking('traces', lambda: time.sleep(3600))", READY, UNTIL_END, shutdown_s=0.2)
    status, said = process.ready().send(signal.SIGTERM).end()
    assert status == 0
    assert "traces did not end" in said
    assert "ended by force" in said


def test_an_event_loop_that_hangs_is_ended_with_1_and_shows_where() -> None:
    process = Process("life.at_end('loop', lambda: time.sleep(3600))", READY, UNTIL_END, shutdown_s=0.2)
    status, said = process.ready().send(signal.SIGTERM).end()
    assert status == 1
    assert "ended by force with status 1" in said
    assert "most recent call first" in said


def test_a_start_that_takes_long_is_given_up_at_once() -> None:
    process = Process(READY, "await asyncio.sleep(3600)")
    assert process.ready().send(signal.SIGTERM).end()[0] == 0
    assert process.took_s < 5
