"""Faults as inject/heal pairs: what is done to a replica, and how the mesh is whole again."""

import asyncio
import random
import signal
from dataclasses import dataclass

from shared.heartbeats import Cluster
from shared.topics import Service
from tests.chaos.observations import Healed, Injected, Notebook, now
from tests.support.mesh import Mesh, Replica

OBSERVE_S = 3.0
"""Between inject and heal: a takeover is not disturbed by the start of the replacement."""
CALM_S = 1.0
"""Between two faults."""
END_S = 20.0
PAUSE_S = 2.5
"""Longer than the session timeout on Apache Kafka (1 s) and the mesh's `silent_after` (1 s)."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Send `signal` to a replica of `service`; SIGSTOP is followed by SIGCONT after PAUSE_S."""

    service: Service
    signal: signal.Signals

    @property
    def name(self) -> str:
        return f"{self.service.value} {self.signal.name}"


FAULTS = (
    *(Fault(service, how) for how in (signal.SIGKILL, signal.SIGTERM) for service in Service),
    Fault(Service.INFERENCE, signal.SIGSTOP),
    Fault(Service.MODERATION, signal.SIGSTOP),
)


class Injector:
    """Strikes one replica at a time and returns once every replica is ready again."""

    def __init__(self, mesh: Mesh, cluster: Cluster, notebook: Notebook, rng: random.Random) -> None:
        self._mesh = mesh
        self._cluster = cluster
        self._notebook = notebook
        self._rng = rng

    async def strike(self, fault: Fault) -> None:
        """Inject, let the mesh recover by itself, heal. Raises AssertionError if it is not ready again."""
        victim = self._rng.choice(self._mesh.of(fault.service))
        self._inject(fault, victim)
        if fault.signal is signal.SIGSTOP:
            exited = await self._resume(victim)
        else:
            await asyncio.sleep(OBSERVE_S)
            exited = False
            await asyncio.to_thread(victim.process.stop, END_S)
        if not victim.process.running:
            self._mesh.retire(victim)
            self._mesh.add(fault.service)
        await self._mesh.wait_ready()
        self._notebook.write(Healed(at=now(), fault=fault.name, victim=victim.id, exited=exited))
        await asyncio.sleep(CALM_S)

    def _inject(self, fault: Fault, victim: Replica) -> None:
        member = self._cluster.members.get(victim.id)
        partitions = [] if member is None else list(member.beat.partitions)
        injected = Injected(
            at=now(), fault=fault.name, service=fault.service.value, victim=victim.id, partitions=partitions
        )
        self._notebook.write(injected)
        victim.process.signal(fault.signal)

    async def _resume(self, victim: Replica) -> bool:
        """Whether it ended by itself once it ran again."""
        await asyncio.sleep(PAUSE_S)
        victim.process.signal(signal.SIGCONT)
        await asyncio.sleep(OBSERVE_S)
        return not victim.process.running
