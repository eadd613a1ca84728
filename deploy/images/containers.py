"""A program of an image that runs as in a container whose root is read-only, without an engine."""

import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from deploy.images.building import Built
from deploy.images.roots import Mount, environment_inside
from deploy.process import ChildProcess

_POLL_S = 0.2
_HEALTH_S = 10.0
_TAIL_LINES = 25


class ContainerError(Exception):
    """A program did not become healthy, or did not end as it should; the message holds its last lines."""


class Container:
    """`docker run --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges`, in the host's network.

    `environment` comes over that of the image; `arguments` stand in the place of its CMD.
    """

    def __init__(
        self,
        name: str,
        built: Built,
        *,
        environment: Mapping[str, str],
        log_path: Path,
        arguments: Sequence[str] | None = None,
        mounts: Sequence[Mount] = (),
    ) -> None:
        self.name = name
        self._built = built
        self._mounts = (*built.mounts, *mounts)
        self._environment = environment_inside({**built.image.environment, **environment})
        command = built.image.command if arguments is None else tuple(arguments)
        argv = self._inside((*built.image.entrypoint, *command))
        self._process = ChildProcess(argv, log_path=log_path, env=self._environment)

    def start(self) -> None:
        self._process.start()

    def kill(self) -> None:
        """Whatever it does; no error when it has ended."""
        self._process.kill()

    def wait_healthy(self, timeout_s: float) -> None:
        """Until the image's own health check passes. Raises ContainerError."""
        give_up_at = time.monotonic() + timeout_s
        while not self._healthy():
            if not self._process.running:
                raise ContainerError(self._trouble(f"ended with {self._process.exit_code} before it was healthy"))
            if time.monotonic() > give_up_at:
                raise ContainerError(self._trouble(f"was not healthy within {timeout_s:g} s"))
            time.sleep(_POLL_S)

    def stop(self, timeout_s: float) -> None:
        """As `docker stop` does it. Raises ContainerError unless it ends with status 0 in that time."""
        init = psutil.Process(self._process.pid).children()
        number = signal.Signals[self._built.image.stop_signal]
        for process in init:
            process.send_signal(number)
        if not self._process.wait(timeout_s):
            self.kill()
            raise ContainerError(self._trouble(f"still ran {timeout_s:g} s after {number.name}"))
        self._assert_success()

    def run(self, timeout_s: float) -> str:
        """Run a program that ends by itself; what it wrote. Raises ContainerError unless it succeeds in that time."""
        self.start()
        if not self._process.wait(timeout_s):
            self.kill()
            raise ContainerError(self._trouble(f"did not end within {timeout_s:g} s"))
        self._assert_success()
        return self._process.log_text()

    def probe(self, program: Sequence[str], timeout_s: float = _HEALTH_S) -> "subprocess.CompletedProcess[str]":
        """Run another program beside it, in a root, with a user and an environment like its own.

        Raises subprocess.TimeoutExpired.
        """
        return subprocess.run(
            self._inside(program),
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def _healthy(self) -> bool:
        try:
            return self.probe(self._built.image.healthcheck).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    def _inside(self, program: Sequence[str]) -> list[str]:
        image = self._built.image
        return self._built.root.command(
            program, user=image.user, folder=image.folder, mounts=self._mounts, read_only=True
        )

    def _assert_success(self) -> None:
        if self._process.exit_code != 0:
            raise ContainerError(self._trouble(f"ended with {self._process.exit_code}"))

    def _trouble(self, what: str) -> str:
        lines = "\n  ".join(self._process.log_tail(_TAIL_LINES)) or "(it wrote nothing)"
        return f"{self.name} {what}; its last lines:\n  {lines}"
