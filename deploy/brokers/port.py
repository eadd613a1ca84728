"""The port: what a test or the runner may ask of a broker."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

SUPER_USER = "root"
"""The principal that may do everything, on a broker where not everybody may."""


class BrokerError(Exception):
    """A broker cannot be started or controlled; the message says what is missing and what to do."""


@dataclass(frozen=True)
class Capabilities:
    """What differs between brokers so much that callers must know.

    persistent: records survive `restart()`.
    log_append_time: `message.timestamp.type=LogAppendTime` is honoured.
    idempotence: producers with `enable_idempotence=True` work.
    creates_topics_unasked: a metadata request for an unknown topic creates it, with partitions of its own choice.
    session_timeout_ms: the shortest group session timeout that works well there.
    fetch_max_wait_ms: how long a fetch may wait there: a broker that wakes it on new records may take its time.
    restarts_groups: a group takes new members at once when all of its members have ended.
    replication_factor, min_insync_replicas: how topics are to be laid out there.
    controllable: `kill()` and `restart()` work; a broker that others started is not ours to kill.
    """

    persistent: bool
    log_append_time: bool
    idempotence: bool
    session_timeout_ms: int
    fetch_max_wait_ms: int = 100
    creates_topics_unasked: bool = False
    restarts_groups: bool = True
    replication_factor: int = 1
    min_insync_replicas: int = 1
    controllable: bool = True


class Broker(ABC):
    """One Kafka-compatible broker. Its methods block; `start`, `kill` and `restart` raise BrokerError.

    As a context manager it runs inside the block and leaves neither a process nor data behind.
    """

    name: str
    capabilities: Capabilities

    @property
    @abstractmethod
    def bootstrap(self) -> str:
        """`host:port[,host:port]` for clients; stays the same over `restart()`.

        A broker that was told to advertise another address, a proxy's, names that one.
        """

    @property
    def listener(self) -> str:
        """`host:port` at which it listens itself: where a proxy in front of it must connect."""
        return self.bootstrap

    def access(self, principal: str) -> Mapping[str, str]:
        """The variables by which a client comes in as `principal`, with its password; none where everybody may."""
        return {}

    @abstractmethod
    def start(self) -> None:
        """Return once the broker answers clients."""

    @abstractmethod
    def stop(self) -> None:
        """End it in order and delete its data. Does nothing when it does not run."""

    @abstractmethod
    def kill(self) -> None:
        """End it as a crash would, now; its data stays for `restart()`."""

    @abstractmethod
    def restart(self) -> None:
        """Bring it up again at the same address, ending it first if it runs.

        It has its records again if it is `persistent`, else it comes back empty.
        """

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
