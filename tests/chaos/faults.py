"""Faults as inject/heal pairs: what is done to a replica, the broker or the network, and how it is whole again."""

import asyncio
import signal
from abc import ABC, abstractmethod
from dataclasses import dataclass

from deploy.brokers import Broker
from shared.topics import Service
from tests.chaos.proxy import BrokerProxy
from tests.support.mesh import Mesh, Replica

OBSERVE_S = 1.5
"""Between the end of a replica and the start of its replacement: long enough to be missed (`silent_after` is 1 s)."""
END_S = 20.0
PAUSE_S = 2.5
"""Longer than the session timeout on Apache Kafka (1 s) and the mesh's `silent_after` (1 s)."""
LATE_S = 1.0
"""A client is back long before, and has sent what it missed."""
PARTITIONED_S = 7.0
"""Longer than a request may take (`request_timeout_ms`, 5 s): batches expire."""
ARMED_S = 1.0
"""For so long a connection may wait for the request or reply that it loses."""

RESPONSE_TOPICS = b".responses."
"""Part of the names of journal and events: the heartbeats' many requests are left alone."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What faults are done to. Without a proxy before the broker the network has none."""

    mesh: Mesh
    broker: Broker
    before_it: BrokerProxy | None = None

    @property
    def proxy(self) -> BrokerProxy:
        """What stands between the mesh and the broker. Raises RuntimeError where nothing does."""
        if self.before_it is None:
            raise RuntimeError("faults of the network need a proxy before the broker")
        return self.before_it


class Fault(ABC):
    """A kind of fault. `service` says which streams it hits: those of a replica of it, or all of them (None).
    `name` is how logs and tables call it."""

    name: str
    service: Service | None = None

    @abstractmethod
    async def inject(self, scene: Scene, victim: Replica | None) -> None:
        """Do the harm. Returns when it is done, not when it is over."""

    @abstractmethod
    async def heal(self, scene: Scene, victim: Replica | None) -> bool:
        """Let the mesh live with it, then take the harm away. True if the victim ended, though nobody killed it."""


class ReplicaFault(Fault):
    """Send a signal to a replica of `service`; SIGSTOP is followed by SIGCONT after PAUSE_S."""

    def __init__(self, service: Service, number: signal.Signals) -> None:
        self.service = service
        self.name = f"{service.value} {number.name}"
        self._signal = number

    async def inject(self, scene: Scene, victim: Replica | None) -> None:
        assert victim is not None
        victim.process.signal(self._signal)

    async def heal(self, scene: Scene, victim: Replica | None) -> bool:
        assert victim is not None
        paused = self._signal is signal.SIGSTOP
        if paused:
            await asyncio.sleep(PAUSE_S)
            victim.process.signal(signal.SIGCONT)
        await asyncio.sleep(OBSERVE_S)
        if not paused:
            await asyncio.to_thread(victim.process.stop, END_S)
        ended = not victim.process.running
        if ended:
            scene.mesh.retire(victim)
            scene.mesh.add(victim.service)
        return paused and ended


class BrokerKilled(Fault):
    """kill -9 of the broker, and its restart with the same data at the same address."""

    name = "broker SIGKILL"

    async def inject(self, scene: Scene, victim: Replica | None) -> None:
        await asyncio.to_thread(scene.broker.kill)

    async def heal(self, scene: Scene, victim: Replica | None) -> bool:
        await asyncio.to_thread(scene.broker.restart)
        return False


class RepliesLost(Fault):
    """Batches are appended, their producers never hear of it, and send them again: A A."""

    name = "network replies lost"

    async def inject(self, scene: Scene, victim: Replica | None) -> None:
        lost = scene.proxy.lose_replies(RESPONSE_TOPICS)
        await asyncio.sleep(ARMED_S)
        lost.disarm()

    async def heal(self, scene: Scene, victim: Replica | None) -> bool:
        await asyncio.sleep(OBSERVE_S)
        return False


class RequestsDelayed(Fault):
    """Batches arrive late, from connections given up, behind their own copies and successors: A B A."""

    name = "network requests delayed"

    async def inject(self, scene: Scene, victim: Replica | None) -> None:
        delayed = scene.proxy.delay_requests(RESPONSE_TOPICS)
        await asyncio.sleep(ARMED_S + LATE_S)
        delayed.deliver()

    async def heal(self, scene: Scene, victim: Replica | None) -> bool:
        await asyncio.sleep(OBSERVE_S)
        return False


class ConnectionsReset(Fault):
    """Every connection to the broker breaks at once."""

    name = "network reset"

    async def inject(self, scene: Scene, victim: Replica | None) -> None:
        scene.proxy.reset_all()

    async def heal(self, scene: Scene, victim: Replica | None) -> bool:
        await asyncio.sleep(OBSERVE_S)
        return False


class NetworkPartitioned(Fault):
    """Nothing reaches the broker for longer than a request may take; what was on its way arrives afterwards."""

    name = "network partition"

    async def inject(self, scene: Scene, victim: Replica | None) -> None:
        scene.proxy.pause()

    async def heal(self, scene: Scene, victim: Replica | None) -> bool:
        await asyncio.sleep(PARTITIONED_S)
        scene.proxy.resume()
        return False


FAULTS: tuple[Fault, ...] = (
    *(ReplicaFault(service, how) for how in (signal.SIGKILL, signal.SIGTERM) for service in Service),
    ReplicaFault(Service.INFERENCE, signal.SIGSTOP),
    ReplicaFault(Service.MODERATION, signal.SIGSTOP),
    BrokerKilled(),
    RepliesLost(),
    RequestsDelayed(),
    ConnectionsReset(),
    NetworkPartitioned(),
)
