"""The processes of a local run: started together, watched, ended in order."""

import asyncio
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from deploy.brokers import Broker
from deploy.brokers.local_process import LocalProcessBroker
from deploy.local.errors import RunError
from deploy.local.settings import service_environment
from deploy.process import ChildProcess, Deadline
from shared.topics import Service

# Ended in this order: first who takes requests, then who works on them, then who records them.
SHUTDOWN_STEPS = ((Service.GATEWAY,), (Service.MODERATION, Service.INFERENCE), (Service.HISTORY,))

_ROOT = Path(__file__).resolve().parents[2]
_POLL_S = 0.05
_RESERVE_S = 1.0  # what a step leaves of the deadline to each step after it
_TAIL_LINES = 20


class Mesh:
    """The broker and the four services. `log_dir` gets one log per process."""

    def __init__(self, broker: Broker, log_dir: Path, ids: Mapping[Service, str]) -> None:
        self.broker = broker
        self._log_dir = log_dir.resolve()
        self._ids = ids
        self._services: dict[Service, ChildProcess] = {}

    def log_path(self, service: Service) -> Path:
        """Where a service writes."""
        return self._log_dir / f"{service.value}.log"

    def start_services(self, common: Mapping[str, str], management_ports: Mapping[Service, int]) -> None:
        """Start the four; returns at once. `common`: the environment that they share."""
        for service in Service:
            child = ChildProcess(
                [sys.executable, "-m", f"services.{service.value}"],
                log_path=self.log_path(service),
                env=service_environment(common, self._ids[service], management_ports[service]),
                cwd=_ROOT,
            )
            self._services[service] = child
            child.start()

    def raise_if_ended(self) -> None:
        """Raises RunError with the last lines of whatever has ended by itself."""
        if isinstance(self.broker, LocalProcessBroker) and not self.broker.running:
            raise RunError(_ended("the embedded broker", None, self.broker.log_tail(), self.broker.log_path))
        for service, child in self._services.items():
            if not child.running:
                lines = child.log_tail(_TAIL_LINES)
                raise RunError(_ended(service.value, child.exit_code, lines, self.log_path(service)))

    async def shut_down(self, deadline: Deadline, hurry: asyncio.Event, say: Callable[[str], None]) -> None:
        """End everything in order; at the deadline, or once `hurry` is set, kill what is left. Never raises."""
        try:
            for index, step in enumerate(SHUTDOWN_STEPS):
                children = {service: self._services[service] for service in step if service in self._services}
                reserve_s = _RESERVE_S * (len(SHUTDOWN_STEPS) - index)
                await _end(children, deadline, reserve_s, hurry, say)
        finally:
            for child in self._services.values():
                child.kill()
            if hurry.is_set() and isinstance(self.broker, LocalProcessBroker) and self.broker.running:
                self.broker.kill()
            self.broker.stop()


async def _end(
    children: Mapping[Service, ChildProcess],
    deadline: Deadline,
    reserve_s: float,
    hurry: asyncio.Event,
    say: Callable[[str], None],
) -> None:
    for child in children.values():
        child.terminate()
    while any(child.running for child in children.values()):
        if hurry.is_set() or deadline.remaining_s() <= reserve_s:
            break
        await asyncio.sleep(_POLL_S)
    for service, child in children.items():
        if child.running:
            say(f"{service.value} did not end in time and is killed")
        child.kill()  # also what it may have started itself


def _ended(name: str, exit_code: int | None, lines: list[str], log: Path | None) -> str:
    how = "" if exit_code is None else _how(exit_code)
    shown = "\n".join(f"  | {line}" for line in lines) or "  | (it wrote nothing)"
    where = f"\nThe whole log: {log}" if log else ""
    return f"{name} has ended{how}; so everything is ended. Its last lines:\n{shown}\n{_advice(lines)}{where}"


def _how(exit_code: int) -> str:
    return f" by signal {-exit_code}" if exit_code < 0 else f" with exit code {exit_code}"


def _advice(lines: list[str]) -> str:
    if any("No module named" in line for line in lines):
        return "A package is missing: run `make clean` and then `make run`, which installs the locked ones again."
    if any("error: " in line for line in lines):
        return "Do what the line with `error:` says, then start again."
    return "If these lines do not tell what to do, set CHATMESH_LOG_LEVEL=DEBUG and start again."
