"""What history's handlers need from the outside."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from services.history.retry import Queues
from services.history.stores.port import Store
from services.history.told import ResponseLog, Tidings, Told


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
    tidings: Tidings = field(default_factory=Tidings)
    queues: Queues = field(default_factory=Queues)

    async def told_of(self, response_id: str) -> Told:
        """What the public log tells of a response by now. Raises LogError."""
        return await self.tidings.of(response_id, self.log)

    def looks(self, subject: str, until_ms: int) -> AsyncIterator[int]:
        """For a loop that looks at `subject`, a response or conversation, until it has changed: see `Queues.looks`."""
        return self.queues.looks(subject, self.clock_ms, until_ms)
