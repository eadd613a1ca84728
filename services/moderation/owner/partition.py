"""One owned partition: its responses, and where a successor would have to start."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from services.moderation.owner.appends import succeeded
from services.moderation.owner.response import Owned
from shared.records import Delete

_REMEMBERED_ENDS = 10_000
_HEALS_BITS = 20


def first_epoch(generation: int) -> int:
    """The epoch of an owner that the group gave the partition in `generation` (DESIGN 6.1).

    A superseded owner has an older generation, so whatever it writes, however late, is of a lower epoch. The low bits
    count how often an owner took the partition over anew since; readers only compare epochs.
    """
    return generation << _HEALS_BITS


@dataclass(slots=True)
class Partition:
    """`epoch` stamps what is published. `live_at`: the journal offset from which on we act; below it we only fold what
    others did; `live_since_ms`: when we got there, by the log's clock. `erasures`: offset → a `delete` that was folded
    and not acted on yet. `answers`: offset → the append that settles that record for good."""

    number: int
    epoch: int
    live_at: int
    next_offset: int
    live_since_ms: int | None = None
    committed: int = -1
    responses: dict[str, Owned] = field(default_factory=dict)
    erasures: dict[int, Delete] = field(default_factory=dict)
    answers: dict[int, "asyncio.Future[Any]"] = field(default_factory=dict)
    _ended: "OrderedDict[str, bool]" = field(default_factory=OrderedDict)  # whether it came to nothing

    @property
    def live(self) -> bool:
        """We act on it."""
        return self.live_since_ms is not None

    @property
    def healed(self) -> bool:
        """We had it before, in this generation of the group, and took it over anew where an append failed."""
        return self.epoch & ((1 << _HEALS_BITS) - 1) != 0

    @property
    def low_watermark(self) -> int:
        """Where a successor must start to fold: the oldest unended response's `requested`, or a record whose answer
        (a dead letter, a `deleted`) is not acknowledged yet."""
        unsettled = [offset for offset, answer in self.answers.items() if not succeeded(answer)]
        unended = (response.offset for response in self.responses.values())
        return min([*unended, *self.erasures, *unsettled], default=self.next_offset)

    def has_ended(self, response_id: str) -> bool:
        """A redelivered `requested` of an ended response must not start it again."""
        return response_id in self._ended

    def came_to_nothing(self, response_id: str) -> bool:
        """It has ended, and never was public."""
        owned = self.responses.get(response_id)
        return owned.came_to_nothing if owned is not None else self._ended.get(response_id, False)

    def forget(self, owned: Owned) -> None:
        """The response is over; remember only its id, and whether it came to nothing."""
        self.responses.pop(owned.id, None)
        self._ended[owned.id] = owned.came_to_nothing
        if len(self._ended) > _REMEMBERED_ENDS:
            self._ended.popitem(last=False)

    def forget_closed(self) -> None:
        """Forget every response whose end has been acknowledged, and every answer that has."""
        for owned in [r for r in self.responses.values() if r.closing is not None and all(map(succeeded, r.closing))]:
            self.forget(owned)
        for offset in [offset for offset, answer in self.answers.items() if succeeded(answer)]:
            del self.answers[offset]
