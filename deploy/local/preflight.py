"""What can be known to fail before anything is started."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from deploy.brokers.ports import can_bind
from deploy.local.errors import RunError
from deploy.local.settings import LocalSettings
from shared.chat.sources import locate_model


def check(settings: LocalSettings) -> None:
    """Raises RunError for a taken port, and ModelNotFoundError for a model that is not there."""
    if not can_bind(settings.port):
        raise RunError(
            f"port {settings.port} is taken by another program; choose another one: PORT={settings.port + 1} make run"
        )
    locate_model(settings.model)


@contextmanager
def only_run(settings: LocalSettings) -> Iterator[Callable[[Mapping[str, str]], None]]:
    """Hold the data folder for this run. Raises RunError that names the run that holds it.

    The kernel gives the lock back when its holder dies, however it dies. The file stays. Within the block a call tells
    others by which variables they reach the run's broker (`running_environment`).
    """
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        lock = _lock_file(settings.data_dir).open("a+")
    except OSError as error:
        raise RunError(f"cannot write to {settings.data_dir} (CHATMESH_DATA_DIR): {error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(_already_running(lock)) from error
        _write_holder(lock, settings.address, {})
        yield lambda environment: _write_holder(lock, settings.address, environment)


def running_environment(data_dir: Path) -> dict[str, str]:
    """The variables by which a program reaches the broker of the run that holds this data folder; empty if none does,
    or its broker is not up yet."""
    try:
        with _lock_file(data_dir).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return {}
    except BlockingIOError:
        holder = _holder(_lock_file(data_dir).read_text(encoding="utf-8"))
        return {} if holder is None else dict(holder["environment"])
    return {}


def _lock_file(data_dir: Path) -> Path:
    return data_dir / "run.lock"


def _write_holder(lock: IO[str], address: str, environment: Mapping[str, str]) -> None:
    lock.truncate(0)
    lock.write(json.dumps({"pid": os.getpid(), "address": address, "environment": environment}))
    lock.flush()


def _holder(written: str) -> dict[str, Any] | None:
    """Who holds the lock; None where it has not written that yet."""
    try:
        holder: dict[str, Any] = json.loads(written)
    except json.JSONDecodeError:
        return None
    return holder


def _already_running(lock: IO[str]) -> str:
    lock.seek(0)
    holder = _holder(lock.read())
    if holder is None:
        return "chatmesh is being started by another process right now"
    return (
        f"chatmesh already runs here: pid {holder['pid']}, {holder['address']}. End it with Ctrl-C in its terminal or "
        f"`kill {holder['pid']}`; a second one beside it needs its own CHATMESH_DATA_DIR and PORT"
    )
