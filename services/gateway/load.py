"""How busy the mesh is, read off the heartbeats: what waits, what is free, how fast it drains. Pure."""

import math
from collections import deque
from dataclasses import dataclass, field

from shared.heartbeats import Cluster
from shared.topics import Service

MAX_RETRY_AFTER_S = 60


@dataclass(frozen=True, slots=True)
class MeshLoad:
    """One model's load as the last beats tell it.

    `waiting`: accepted jobs without a slot, over all owners. `slots_free`: of all ready workers of the model.
    `gateways`: how many share what is left, at least one. `owners` and `workers`: those that take work;
    `starting`: workers that do not yet, and may turn out to serve the model.
    """

    waiting: int
    slots_free: int
    gateways: int
    owners: int
    workers: int
    starting: int

    @classmethod
    def of(cls, cluster: Cluster, model: str) -> "MeshLoad":
        """Measure what the living members say."""
        owners = cluster.alive(Service.MODERATION, ready=True)
        workers = cluster.alive(Service.INFERENCE)
        ready = [m.beat for m in workers if m.beat.state == "ready" and m.beat.model == model]
        starting = [m for m in workers if m.beat.state == "starting" and m.beat.model in ("", model)]
        return cls(
            waiting=sum(member.beat.waiting for member in owners),
            slots_free=sum(beat.slots_free for beat in ready),
            gateways=max(1, len(cluster.alive(Service.GATEWAY, ready=True))),
            owners=len(owners),
            workers=len(ready),
            starting=len(starting),
        )

    def room(self, max_waiting: int) -> int:
        """How many more requests, over all gateways, until more than `max_waiting` jobs wait; may be negative."""
        return max_waiting + self.slots_free - self.waiting

    def share(self, max_waiting: int) -> int:
        """How many of them one gateway may admit before it hears new beats. All shares exceed the room by less than
        the number of gateways."""
        return math.ceil(max(0, self.room(max_waiting)) / self.gateways)


@dataclass(slots=True)
class DrainMeter:
    """How many claims of the model's workers end per second, over the last `window_ms` of the log's clock."""

    model: str
    window_ms: int = 30_000
    _claims: dict[str, frozenset[str]] = field(default_factory=dict)
    _ended: deque[tuple[int, int]] = field(default_factory=deque)
    _since_ms: int = 0

    def observe(self, cluster: Cluster) -> None:
        """Take the present beats in. A worker that vanished ended nothing: its jobs run elsewhere."""
        self._since_ms = self._since_ms or cluster.now_ms
        workers = [m.beat for m in cluster.alive(Service.INFERENCE) if m.beat.model == self.model]
        claims = {beat.id: frozenset(beat.claims) for beat in workers}
        ended = sum(len(before - claims[i]) for i, before in self._claims.items() if i in claims)
        self._claims = claims
        if ended:
            self._ended.append((cluster.now_ms, ended))
        while self._ended and self._ended[0][0] < cluster.now_ms - self.window_ms:
            self._ended.popleft()

    def per_s(self, now_ms: int) -> float:
        """The rate, never zero: one more end than was seen is due about now."""
        elapsed_ms = min(self.window_ms, max(1000, now_ms - self._since_ms))
        ended = sum(count for at_ms, count in self._ended if at_ms >= now_ms - self.window_ms)
        return (ended + 1) * 1000 / elapsed_ms


def retry_after_s(excess: int, drain_per_s: float) -> int:
    """When to try again, if `excess` jobs must end first: whole seconds, 1 to MAX_RETRY_AFTER_S."""
    return min(MAX_RETRY_AFTER_S, max(1, math.ceil(excess / drain_per_s)))
