"""Who runs in a data folder: a file that its process holds locked, and what that process tells others in it."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

Told = dict[str, Any]
Tell = Callable[[Mapping[str, Any]], None]
"""Replaces what others are told."""


class HeldError(Exception):
    """Another process holds the file. `holder`: what it tells, `pid` included; None where it has told nothing yet."""

    def __init__(self, holder: Told | None) -> None:
        super().__init__("held by another process")
        self.holder = holder


@contextmanager
def held(path: Path, told: Mapping[str, Any]) -> Iterator[Tell]:
    """Hold the file for this process within the block. Raises HeldError, OSError.

    The kernel gives the lock back when its holder dies, however it dies. The file stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise HeldError(_read(lock.read())) from error
        _write(lock, told)
        yield lambda news: _write(lock, news)


def holder_of(path: Path) -> Told | None:
    """What the process that holds the file now tells; None if none does, or it has told nothing yet."""
    try:
        with path.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return _read(path.read_text(encoding="utf-8"))
    return None


def _write(lock: IO[str], told: Mapping[str, Any]) -> None:
    lock.truncate(0)
    lock.write(json.dumps({"pid": os.getpid(), **told}))
    lock.flush()


def _read(written: str) -> Told | None:
    try:
        told: Told = json.loads(written)
    except json.JSONDecodeError:
        return None
    return told
