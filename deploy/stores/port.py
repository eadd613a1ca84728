"""The port: what a test or a person may ask of a server that speaks MongoDB's protocol."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class StoreServerError(Exception):
    """A server cannot be started or controlled; the message says what is missing and what to do."""


class StoreServer(ABC):
    """One server. Its methods block; `start`, `kill` and `restart` raise StoreServerError.

    `real`: it is MongoDB itself, so that what only MongoDB does can be shown on it. `controllable`: `kill` and
    `restart` work; a server that others started is not ours to kill. As a context manager it runs inside the block and
    leaves neither a process nor data behind.
    """

    name: str
    real: bool
    controllable: bool = True

    @abstractmethod
    def url(self, database: str) -> str:
        """The `MONGODB_URL` of a database on it; stays the same over `restart()`."""

    @abstractmethod
    def start(self) -> None:
        """Return once the server answers clients."""

    @abstractmethod
    def stop(self) -> None:
        """End it in order and delete its data. Does nothing when it does not run."""

    @abstractmethod
    def kill(self) -> None:
        """End it as a crash would, now; its data stays for `restart()`."""

    @abstractmethod
    def restart(self) -> None:
        """Bring it up again at the same address with its data, ending it first if it runs."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
