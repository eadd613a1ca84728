"""What the lanes of one WebSocket remember, because no store does. Pure.

1. A lane remembers its latest response, if history could not tell all that was said until its end: it, or a turn
   before it, has `store` false. What history can tell is left to it: then a response that its tenant erased is gone
   at once, from here too.
2. Any lane of the connection may continue what a lane remembers: a new lane forks so from another one.
3. A lane that goes on forgets what it remembered; one whose request fails (4xx, 5xx, `response.failed`) forgets the
   response that the request named, if it is its own. A fork that fails leaves the other lane's alone.
4. The memory is bounded. What was remembered longest ago goes first; what is larger than the bound by itself is not
   remembered. Naming what was forgotten is naming an unknown response.

OpenAI documents the rules 2 and 3, and that the memory ends with the connection.
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass

from services.gateway.ingress import Past
from shared.records import Message

_MESSAGE_BYTES = 200
"""What a message takes beside its text."""


@dataclass(frozen=True, slots=True)
class _Memory:
    response_id: str
    past: Past
    size_bytes: int


class LaneMemory:
    """At most `limit_bytes` of past, the latest of each lane. Lanes are named as in `Lanes`."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._lanes: dict[str | None, _Memory] = {}
        self.size_bytes = 0

    def recall(self, response_id: str) -> Past | None:
        """The past at the end of this response, if a lane remembers it."""
        for memory in self._lanes.values():
            if memory.response_id == response_id:
                return memory.past
        return None

    def advance(self, lane: str | None, response_id: str, past: Past | None) -> None:
        """`response_id` is the lane's latest now; with a past of None, nothing of it is kept."""
        self._forget(lane)
        if past is None:
            return
        size_bytes = _size_bytes(past.messages)
        if size_bytes > self._limit_bytes:
            return
        while self.size_bytes + size_bytes > self._limit_bytes:
            self._forget(next(iter(self._lanes)))
        self._lanes[lane] = _Memory(response_id, past, size_bytes)
        self.size_bytes += size_bytes

    def evict(self, lane: str | None, response_id: str) -> None:
        """A request of this lane that named `response_id` as its parent failed."""
        memory = self._lanes.get(lane)
        if memory is not None and memory.response_id == response_id:
            self._forget(lane)

    def _forget(self, lane: str | None) -> None:
        memory = self._lanes.pop(lane, None)
        if memory is not None:
            self.size_bytes -= memory.size_bytes


def _size_bytes(messages: Iterable[Message]) -> int:
    """What the messages take in memory; forks share them, and count them twice."""
    return sum(_MESSAGE_BYTES + sum(sys.getsizeof(part) for part in message.parts) for message in messages)
