"""What history's handlers need from the outside."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.history.stores.port import Store
from shared.ids import ResponseId
from shared.log import RawRecord, Replay
from shared.records import Record
from shared.topics import Topic


class ResponseLog(Protocol):
    """Reads responses' sub-logs; `shared.log.Replayer` is the real one."""

    async def replay(self, topic: Topic, response_id: ResponseId, *, start: int | None = None) -> Replay:
        """Its records up to the log's end. Raises ReplayGoneError past the retention."""

    async def read(
        self, topic: Topic, partition: int, keys: Collection[str], *, since_ms: int, start: int | None = None
    ) -> Replay:
        """The records of the responses `keys` from offset `start` on; None: since `since_ms`, less the skew margin."""


class PromptCounter(Protocol):
    """Counts prompts as the workers will; `shared.chat.ChatTokenizer` is the real one."""

    @property
    def context_window(self) -> int:
        """Tokens that prompt and answer may take together."""

    def count(self, messages: Sequence[Mapping[str, str]]) -> int:
        """Tokens of the rendered prompt. Raises ChatTemplateError."""


@dataclass(frozen=True)
class Ports:
    """Handed to every handler. Times are in unix milliseconds; `partitions` is that of the response topics."""

    store: Store
    log: ResponseLog
    counter: PromptCounter
    clock_ms: Callable[[], int]
    partitions: int
    parent_wait_s: float


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record that a handler wants appended; `partition` only where it does not follow from the record."""

    topic: Topic
    record: Record
    partition: int | None = None


class Outbox(Protocol):
    """Appends and waits for the acknowledgement; both raise LogError."""

    async def send(self, outgoing: Outgoing) -> None:
        """Append a record, in the current trace."""

    async def bury(self, topic: Topic, record: RawRecord, error: Exception, attempts: int) -> None:
        """Put a record of `topic` aside that could not be handled in `attempts` attempts."""
