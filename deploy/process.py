"""A child process that never outlives us, its log file, and how long its end may take."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

_BOUND_EXEC = Path(__file__).with_name("bound_exec.py")

# The kernel sends the death signal when the *thread* that forked ends (prctl(2)). All children are therefore
# started from this one thread, which lives as long as the process.
_SPAWNER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")

_TAIL_BYTES = 64 * 1024


class Deadline:
    """One instant that all steps of a shutdown share."""

    def __init__(self, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at = clock() + timeout_s

    def remaining_s(self) -> float:
        """Seconds that are left, never negative."""
        return max(0.0, self._at - self._clock())


class ChildProcess:
    """A program in a process group of its own, with stdout and stderr appended to a log file.

    Its group is its own so that the terminal's Ctrl-C reaches only us, and we decide in which order things
    end. On Linux the kernel kills it when this process dies; elsewhere a SIGKILL of ours can leave it behind.
    A program that cannot be executed shows as exit code 127, with the reason in the log.
    """

    def __init__(self, argv: Sequence[str], *, log_path: Path, env: Mapping[str, str], cwd: Path | None = None) -> None:
        self.argv = list(argv)
        self.log_path = log_path
        self._env = dict(env)
        self._cwd = cwd
        self._popen: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self._asked_to_end = False

    @property
    def pid(self) -> int:
        """Process id of the last start. Raises RuntimeError before the first one."""
        return self._started().pid

    def start(self) -> None:
        """Start the program. Raises RuntimeError when it runs already."""
        if self.running:
            raise RuntimeError(f"already running as pid {self.pid}")
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._log_start = log.tell()
            self._asked_to_end = False
            self._popen = _SPAWNER.submit(self._spawn, log).result()

    def _spawn(self, log: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(_BOUND_EXEC), str(os.getpid()), *self.argv],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=self._env,
            cwd=self._cwd,
            process_group=0,
        )

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it. RuntimeError before the first start."""
        return self._started().poll()

    def terminate(self) -> None:
        """Ask it to end (SIGTERM); no error when it has ended already."""
        self.signal(signal.SIGTERM)

    def signal(self, number: signal.Signals) -> None:
        """Send it any signal; no error when it has ended already."""
        if self.running:
            self._asked_to_end |= number == signal.SIGTERM
            self._started().send_signal(number)

    def kill(self) -> None:
        """SIGKILL to its whole group, also when only its own children are left. Returns once it is gone."""
        if self._popen is None:
            return
        _kill_group(self._popen.pid)
        self._popen.wait()

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; False when it still runs after `timeout_s`."""
        try:
            self._started().wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self, timeout_s: float) -> None:
        """SIGTERM, then SIGKILL to what is left of its group after `timeout_s`.

        Who was asked to end before is not asked again: a second SIGTERM means "hurry" to many programs, ours too.
        """
        if self._popen is None:
            return
        if not self._asked_to_end:
            self.terminate()
        self.wait(timeout_s)
        self.kill()

    def log_text(self) -> str:
        """What it wrote since its last start, at most the last 64 KiB."""
        with self.log_path.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, end - _TAIL_BYTES))
            return log.read().decode(errors="replace")

    def log_tail(self, lines: int) -> list[str]:
        """Its last non-empty lines."""
        return [line for line in self.log_text().splitlines() if line.strip()][-lines:]

    def _started(self) -> subprocess.Popen[bytes]:
        if self._popen is None:
            raise RuntimeError(f"{self.argv[0]} was not started")
        return self._popen


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return  # nobody is left in it
