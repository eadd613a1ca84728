"""A folder on disk that keeps what took long to compute, for the next process.

Whatever happens to it, the caller goes on: an entry that cannot be read is thrown away, one that cannot be written is
only missed, each with one line in the log. An entry appears whole or not at all: it is written beside its place, under
a lock that the system takes back from a killed process, made durable and renamed.
"""

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

_log = logging.getLogger(__name__)
_DIGEST_CHARS = 16

T = TypeVar("T")


def cache_root(setting: str, environ: Mapping[str, str]) -> Path:
    """`setting`, or else `chatmesh/models` in the user's cache folder (XDG Base Directory specification).

    Raises RuntimeError where the user has no home.
    """
    if setting:
        return Path(setting).expanduser()
    base = Path(environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # the specification: relative paths are invalid and are to be ignored
        base = Path("~/.cache").expanduser()
    return base / "chatmesh" / "models"


def entry_name(model_id: str, file: Path, dtype: str, library: str) -> str:
    """The name of what `library` makes of `file` in `dtype`; another content has another name, so none goes stale.

    The whole file is digested (1.5 GB a second where the CPU has SHA instructions): times of change and the model's
    revision, which is a digest of the file's header, do not tell two finetunes apart. Raises OSError.
    """
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return f"{model_id}-{digest[:_DIGEST_CHARS]}-{dtype}-{library}"


def entries_of(model_id: str, root: Path) -> list[Path]:
    """The folders of a model in `root`, the most recently used first; another model's name may begin like this one's.

    Raises OSError.
    """
    ours = re.compile(re.escape(model_id) + rf"-[0-9a-f]{{{_DIGEST_CHARS}}}-.+")
    return sorted(
        (path for path in root.iterdir() if ours.fullmatch(path.name) and path.is_dir()),
        key=lambda path: path.stat().st_mtime_ns,
        reverse=True,
    )


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One folder below `root`, and what may go wrong with it.

    `errors`: what an unusable folder raises: OSError, and whatever else the functions raise that read and write it.
    """

    root: Path
    name: str
    errors: tuple[type[Exception], ...] = (OSError,)

    @property
    def folder(self) -> Path:
        return self.root / self.name

    def load(self, read: Callable[[Path], T]) -> T | None:
        """What `read` makes of the folder; None if there is none, or none that can be read: that one is removed."""
        if not self.folder.is_dir():
            return None
        try:
            content = read(self.folder)
        except self.errors as error:
            _log.warning("the cache %s cannot be read and is made anew: %s", self.folder, error)
        else:
            self._note_use()
            return content
        try:
            with self._lock():
                self._remove()
        except Timeout:
            _log.debug("another process is at %s", self.folder)
        except OSError as error:
            _log.warning("the cache %s cannot be removed: %s", self.folder, error)
        return None

    def store(self, write: Callable[[Path], None]) -> None:
        """Let `write` fill the folder, unless it is there or another process is at it."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with self._lock():
                if not self.folder.exists():
                    self._fill(write)
        except Timeout:
            _log.debug("another process writes %s", self.folder)
        except self.errors as error:
            _log.warning("the cache %s cannot be written; the next start takes as long: %s", self.folder, error)

    def prune(self, others: Iterable[Path]) -> None:
        """Remove these folders of `root`; one that another process writes or removes is left to it."""
        for folder in others:
            stale = CacheEntry(self.root, folder.name, self.errors)
            try:
                with stale._lock():
                    stale._remove()
                _log.info("removed %s: the model has newer ones", folder)
            except Timeout:
                _log.debug("another process is at %s", folder)
            except OSError as error:
                _log.warning("the cache %s cannot be removed: %s", folder, error)

    def _note_use(self) -> None:
        try:
            os.utime(self.folder)
        except OSError as error:
            _log.debug("%s belongs to somebody else, who prunes it by its age: %s", self.folder, error)

    @property
    def _partial(self) -> Path:
        """Where the holder of the lock writes and removes; what lies here otherwise was left by a killed process."""
        return self.root / f".{self.name}.partial"

    def _lock(self) -> AbstractContextManager[object]:
        """Raises Timeout at once if another process holds it."""
        return FileLock(self.root / f".{self.name}.lock").acquire(blocking=False)

    def _fill(self, write: Callable[[Path], None]) -> None:
        self._clear()
        self._partial.mkdir()
        try:
            write(self._partial)
            _make_durable(self._partial)
            self._partial.rename(self.folder)
        finally:
            self._clear()

    def _remove(self) -> None:
        """In one step for those who look: half a folder might still be readable, as something else."""
        self._clear()
        self.folder.rename(self._partial)
        self._clear()

    def _clear(self) -> None:
        if self._partial.exists():
            shutil.rmtree(self._partial)


def _make_durable(folder: Path) -> None:
    """Else a name could survive a power failure, and its content not."""
    for file in folder.iterdir():
        with file.open("r+b") as content:
            os.fsync(content.fileno())
