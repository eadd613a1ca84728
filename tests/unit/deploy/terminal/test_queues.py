"""What is read of a dead-letter queue."""

from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest

from deploy.terminal.dlq import queues
from shared.settings import MeshSettings
from shared.topics import EVENTS


class WithTwoPartitions:
    """A queue that somebody made with more partitions than it is declared with: what lies in one of them is told."""

    def __init__(self, *_: object, **__: object) -> None:
        self.read: list[int] = []

    async def start_since(self, partitions: Iterable[int], unix_ms: int) -> None:
        self.read += partitions
        assert unix_ms == 0

    async def backlog(self) -> AsyncIterator[list[Any]]:
        assert self.read == [0]
        yield []

    async def stop(self) -> None:
        self.read.clear()


async def test_letters_are_read_where_their_number_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def two(*_: object) -> int:
        return 2

    monkeypatch.setattr(queues, "Tail", WithTwoPartitions)
    monkeypatch.setattr(queues, "existing_partitions", two)
    assert await queues.read_letters(MeshSettings(), [EVENTS.name]) == []
