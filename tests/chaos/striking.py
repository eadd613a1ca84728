"""Striking the mesh, one fault after the other or several services at once, each until the mesh is whole again."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import groupby

from shared.heartbeats import Cluster, ClusterWatcher
from shared.topics import Service
from tests.chaos.faults import Fault, Scene
from tests.chaos.observations import Healed, Injected, Notebook, now
from tests.support.mesh import Replica

CALM_S = 0.5
"""Between two faults of a lane: every stream has gone on."""
BROKER = "broker"

Progress = Callable[[str], None]


async def strike_all(
    scene: Scene,
    notebook: Notebook,
    faults: Sequence[Fault],
    kills: int,
    *,
    minutes: float | None,
    overlap: bool,
    rng: random.Random,
    progress: Progress,
) -> None:
    """Every kind `kills` times, the kinds in turn, or until `minutes` are over.

    With `overlap` each service has a lane of its own; broker and network strike when nobody else does. Raises
    AssertionError when the mesh is not ready again.
    """
    watcher = ClusterWatcher(scene.mesh.settings, Service.GATEWAY)
    await watcher.start()
    pace = _Pace(kills * len(faults), minutes, progress)
    injector = Injector(scene, watcher.cluster, notebook, rng)
    gate = _Gate()
    try:
        async with asyncio.TaskGroup() as group:
            for lane in _lanes(faults, overlap):
                group.create_task(_strike_in_turn(lane, kills, injector, gate, pace))
    finally:
        await watcher.stop()


async def _strike_in_turn(
    lane: Sequence[Fault], kills: int, injector: "Injector", gate: "_Gate", pace: "_Pace"
) -> None:
    for _ in range(kills):
        for fault in lane:
            async with gate.shared() if fault.service else gate.alone():
                if pace.over:
                    return
                await injector.strike(fault)
            pace.struck(fault)
            await asyncio.sleep(CALM_S)


def _lanes(faults: Sequence[Fault], overlap: bool) -> Iterable[Sequence[Fault]]:
    if not overlap:
        return [faults]

    def lane(fault: Fault) -> str:
        return fault.service.value if fault.service else ""

    return [list(kinds) for _, kinds in groupby(sorted(faults, key=lane), lane)]


class Injector:
    """Strikes once and returns when every replica of what was struck is ready again."""

    def __init__(self, scene: Scene, cluster: Cluster, notebook: Notebook, rng: random.Random) -> None:
        self._scene = scene
        self._cluster = cluster
        self._notebook = notebook
        self._rng = rng

    async def strike(self, fault: Fault) -> None:
        """Inject, let the mesh recover by itself, heal. Raises AssertionError if it is not ready again."""
        victim = self._rng.choice(self._scene.mesh.of(fault.service)) if fault.service else None
        self._notebook.write(self._injected(fault, victim))
        await fault.inject(self._scene, victim)
        exited = await fault.heal(self._scene, victim)
        await self._scene.mesh.wait_ready(service=fault.service)
        name = victim.id if victim is not None else BROKER
        self._notebook.write(Healed(at=now(), fault=fault.name, victim=name, exited=exited))

    def _injected(self, fault: Fault, victim: Replica | None) -> Injected:
        if victim is None:
            return Injected(at=now(), fault=fault.name, service=BROKER, victim=BROKER)
        member = self._cluster.members.get(victim.id)
        partitions = [] if member is None else list(member.beat.partitions)
        return Injected(
            at=now(), fault=fault.name, service=victim.service.value, victim=victim.id, partitions=partitions
        )


@dataclass
class _Pace:
    """How far the run is; `total` strikes, within `minutes` where they are bounded."""

    total: int
    minutes: float | None
    progress: Progress
    done: int = 0
    began_s: float = field(default_factory=time.monotonic)

    @property
    def over(self) -> bool:
        return self.minutes is not None and time.monotonic() - self.began_s > 60 * self.minutes

    def struck(self, fault: Fault) -> None:
        self.done += 1
        spent_s = time.monotonic() - self.began_s
        left_min = spent_s / self.done * (self.total - self.done) / 60
        if self.minutes is not None:
            left_min = min(left_min, max(0.0, self.minutes - spent_s / 60))
        self.progress(f"{self.done} of {self.total} strikes, {left_min:.1f} min left: {fault.name}")


class _Gate:
    """Many may be inside together, or one alone; who wants to be alone is not overtaken by later ones."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._inside = 0
        self._empty = asyncio.Event()
        self._empty.set()

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Pass beside others."""
        async with self._turn:
            self._inside += 1
            self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Pass when nobody else is inside, and let nobody in."""
        async with self._turn:
            await self._empty.wait()
            yield
