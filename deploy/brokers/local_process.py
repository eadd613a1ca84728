"""What the brokers that run as a process of ours share: start and wait, stop, kill, restart."""

import os
import shutil
import tempfile
import threading
import time
from abc import abstractmethod
from pathlib import Path

from deploy.brokers.port import Broker, BrokerError
from deploy.brokers.ports import LOOPBACK, free_port
from deploy.process import ChildProcess

_POLL_S = 0.02
_STOP_S = 10.0
_TAIL_LINES = 15


class LocalProcessBroker(Broker):
    """A broker on a loopback port of its own, with a working folder that lives until `stop()`.

    `log_path` None: the log lies in the working folder and goes with it. `advertised` (`host:port`): where clients
    are told to come instead, a proxy in front of this broker.
    """

    start_timeout_s = 10.0

    def __init__(self, *, port: int | None = None, log_path: Path | None = None, advertised: str | None = None) -> None:
        self.port = port or free_port()
        self._advertised = advertised
        self.log_path = log_path
        self._folder: Path | None = None
        self._child: ChildProcess | None = None
        self.called_off = threading.Event()
        """Set by another thread, a start that waits ends its process and raises BrokerError."""

    @property
    def bootstrap(self) -> str:
        return self._advertised or self.listener

    @property
    def listener(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int:
        """Process id of the broker. Raises BrokerError when it was not started."""
        return self._started().pid

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.running

    def start(self) -> None:
        if self._child is not None:
            raise BrokerError(f"the {self.name} broker was started before; `restart()` brings it up again")
        self._folder = Path(tempfile.mkdtemp(prefix=f"chatmesh-{self.name}-"))
        try:
            argv = self._prepare(self._folder)
            log_path = self.log_path or self._folder / "broker.log"
            self._child = ChildProcess(argv, log_path=log_path, env=self._environment())
            self._start_and_wait()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop(_STOP_S)
            self._child = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def kill(self) -> None:
        self._started().kill()

    def restart(self) -> None:
        self._started().stop(_STOP_S)
        self._start_and_wait()

    def log_tail(self, lines: int = _TAIL_LINES) -> list[str]:
        """The last lines that the broker wrote."""
        return self._started().log_tail(lines)

    @abstractmethod
    def _prepare(self, folder: Path) -> list[str]:
        """Lay out `folder` and return the command line."""

    @abstractmethod
    def _answers(self, log: str) -> bool:
        """Whether the broker serves clients, told from what it has logged since its start."""

    def _environment(self) -> dict[str, str]:
        """Only what a program needs to run: brokers read settings from it, OTLP addresses too."""
        return {key: os.environ[key] for key in ("PATH", "HOME", "LANG", "TMPDIR", "JAVA_HOME") if key in os.environ}

    def _start_and_wait(self) -> None:
        child = self._started()
        child.start()
        give_up_at = time.monotonic() + self.start_timeout_s
        while not self._answers(child.log_text()):
            if self.called_off.is_set():
                child.kill()
                raise BrokerError(self._trouble("was called off before it was ready"))
            if not child.running:
                raise BrokerError(self._trouble(f"ended with exit code {child.exit_code} before it was ready"))
            if time.monotonic() > give_up_at:
                raise BrokerError(self._trouble(f"was not ready within {self.start_timeout_s:g} s"))
            self.called_off.wait(_POLL_S)

    def _trouble(self, what: str) -> str:
        lines = "\n  ".join(self.log_tail()) or "(it wrote nothing)"
        return f"the {self.name} broker at {self.bootstrap} {what}; its last lines:\n  {lines}"

    def _started(self) -> ChildProcess:
        if self._child is None:
            raise BrokerError(f"the {self.name} broker was not started")
        return self._child
