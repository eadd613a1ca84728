"""Who is let in: the depth of the mesh's queue decides, over all gateways together (DESIGN 4 and 8.8).

Every gateway hears the same heartbeats and refuses with 429 once `max_waiting` jobs wait for a slot in the whole mesh.
What it admitted itself and no beat can show yet, it counts by itself; of what is left, it takes the share that the
number of gateways gives it. So a burst that comes to N gateways at once leaves at most `max_waiting` + N - 1 jobs
waiting. Under a load that goes on, a gateway does not know what the others admitted since the last beats: then up to
as many more may wait as came in during that time (the introduction and two beats, about half a second). The owners'
own bound stands behind that.

A gateway to which all of the load comes gets its share of what is left every half second: it fills the queue in a few.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from services.gateway.errors import too_many, unavailable
from services.gateway.load import DrainMeter, MeshLoad, retry_after_s
from shared.heartbeats import Cluster

_NO_WORKER_RETRY_S = 5


class Admission:
    """The two bounds of a gateway: the responses that it follows itself, and its share of the mesh's queue.

    `max_waiting` counts accepted jobs without a slot, of all owners; 0 means no bound. `settle_s`: how long after its
    acceptance a job may be missing from the beats. `blind_after_s`: when the beats are too old to judge by.
    """

    def __init__(
        self,
        cluster: Cluster,
        model: str,
        *,
        max_in_flight: int,
        max_waiting: int,
        settle_s: float,
        blind_after_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.in_flight = 0
        self._cluster = cluster
        self._model = model
        self._max_in_flight = max_in_flight
        self._max_waiting = max_waiting
        self._settle_s = settle_s
        self._blind_after_s = blind_after_s
        self._clock = clock
        self._drain = DrainMeter(model)
        self._entering = 0
        self._settling: deque[float] = deque()
        self._beat_ms = cluster.now_ms
        self._heard_s = clock()

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold one of this gateway's slots for a followed response. Raises ApiError 429 when none is free."""
        if self.in_flight >= self._max_in_flight:
            raise too_many(f"This gateway follows {self._max_in_flight:,} responses, its limit. Try again in a moment.")
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    @contextmanager
    def entry(self) -> Iterator[None]:
        """Introduce a new response within the block, which ends when it was accepted or raises.

        Raises ApiError 429 when too many jobs wait, 503 when nobody could take this one; both with `retry-after`.
        """
        self._check()
        self._entering += 1
        try:
            yield
            self._settling.append(self._clock() + self._settle_s)
        finally:
            self._entering -= 1

    @property
    def unseen(self) -> int:
        """What this gateway let in and the beats need not show yet."""
        now_s = self._clock()
        while self._settling and self._settling[0] <= now_s:
            self._settling.popleft()
        return self._entering + len(self._settling)

    def observe(self) -> None:
        """Look at the beats; call it about as often as they come."""
        self._drain.observe(self._cluster)
        if self._cluster.now_ms != self._beat_ms:
            self._beat_ms = self._cluster.now_ms
            self._heard_s = self._clock()

    def retry_after_s(self) -> int:
        """When a request that is refused now may be admitted, by the measured rate at which jobs end."""
        room = MeshLoad.of(self._cluster, self._model).room(self._max_waiting)
        return retry_after_s(self.unseen + 1 - room, self._drain.per_s(self._cluster.now_ms))

    def _check(self) -> None:
        self.observe()
        silent_s = self._clock() - self._heard_s
        if silent_s > self._blind_after_s:
            raise unavailable(f"The message log has been silent for {silent_s:.0f} s. Try again.")
        load = MeshLoad.of(self._cluster, self._model)
        if not load.owners:
            raise unavailable("No moderation service is ready. Try again.")
        if not load.workers and not load.starting:
            raise unavailable(f"No worker serves '{self._model}' now. Try again.", retry_after_s=_NO_WORKER_RETRY_S)
        if self._max_waiting and self.unseen >= load.share(self._max_waiting):
            raise too_many(
                f"{load.waiting:,} requests wait for a slot already. Please retry later.",
                retry_after_s=self.retry_after_s(),
            )
