"""A whole mesh as processes, on any broker, in a namespace of its own: what integration and chaos tests drive."""

import asyncio
import os
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import httpx

from deploy.brokers import Broker
from deploy.brokers.port import SUPER_USER
from deploy.brokers.ports import free_port
from deploy.process import ChildProcess, Deadline
from shared.errors import BrokerUnavailableError
from shared.heartbeats import ClusterWatcher
from shared.log import ensure_topics
from shared.settings import MeshSettings
from shared.topics import Service

ROOT = Path(__file__).resolve().parents[2]
READY_S = 240.0
"""Two suites that load a model at the same time, from a cold disk, have taken a minute and more."""
STOP_S = 20.0
POLICY = ROOT / "services" / "moderation" / "policies" / "patterns.yaml"
"""Without a model: what is not about models starts in a second instead of five, and needs no torch in moderation."""
FETCH_MAX_WAIT_MS = 60
"""A fetch waits so long at least. To the embedded broker one that waits is a poll: with its 20 ms, as in `make run`,
an idle mesh takes half a core from the suite beside it, with 60 ms a quarter; an answer takes 40 ms more."""
PATIENT = {"CHATMESH_SILENT_AFTER_S": "5"}
"""For meshes in which nobody dies: a busy machine may stand still for longer than the second that is the default."""
_OURS = ("CHATMESH_", "KAFKA_", "MONGODB_")


@dataclass
class Replica:
    """One process of a service."""

    service: Service
    id: str
    process: ChildProcess
    port: int | None = None


@dataclass
class Mesh:
    """Services on `broker`; `env` is common to all, `counts` says how many replicas of each.

    As an async context manager: topics are made, every service is ready inside the block, nothing runs after it.
    """

    broker: Broker
    folder: Path
    env: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[Service, int] = field(default_factory=lambda: dict.fromkeys(Service, 1))
    partitions: int = 4
    namespace: str = field(default_factory=lambda: f"t{uuid.uuid4().hex[:12]}.")
    replicas: list[Replica] = field(default_factory=list)
    retired: list[Replica] = field(default_factory=list)

    @property
    def settings(self) -> MeshSettings:
        """Settings of a client in this mesh's namespace, who may do everything there."""
        return self.settings_of(SUPER_USER)

    def settings_of(self, principal: str) -> MeshSettings:
        """Settings of a client that comes as `principal`, where the broker asks who comes."""
        return MeshSettings(
            KAFKA_BOOTSTRAP_SERVERS=self.broker.bootstrap,
            namespace=self.namespace,
            partitions=self.partitions,
            replication_factor=self.broker.capabilities.replication_factor,
            min_insync_replicas=self.broker.capabilities.min_insync_replicas,
            **self.broker.access(principal),
        )

    def urls(self) -> list[str]:
        """Base URLs of the gateways, for OpenAI clients."""
        return [f"http://127.0.0.1:{r.port}/v1" for r in self.replicas if r.port is not None]

    @property
    def url(self) -> str:
        """Base URL of the first gateway."""
        return self.urls()[0]

    def of(self, service: Service) -> list[Replica]:
        """The replicas of a service."""
        return [r for r in self.replicas if r.service is service]

    async def __aenter__(self) -> Self:
        try:
            await ensure_topics(self.settings)
            for service, count in self.counts.items():
                for _ in range(count):
                    self.add(service)
            await self.wait_ready()
        except BaseException:
            await asyncio.to_thread(self.stop)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.stop)

    def add(self, service: Service, **env: str) -> Replica:
        """Start one more replica under an id that was never used; `wait_ready` waits for it."""
        number = sum(r.service is service for r in [*self.replicas, *self.retired]) + 1
        service_id = f"{service.value}-{number}"
        port = free_port() if service is Service.GATEWAY else None
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(_OURS)},
            "KAFKA_BOOTSTRAP_SERVERS": self.broker.bootstrap,
            **self.broker.access(service.value),
            "CHATMESH_NAMESPACE": self.namespace,
            "CHATMESH_PARTITIONS": str(self.partitions),
            "CHATMESH_SERVICE_ID": service_id,
            "CHATMESH_DATA_DIR": str(self.folder / "data"),
            "CHATMESH_POLICY": str(POLICY),
            "CHATMESH_REPLICATION_FACTOR": str(self.broker.capabilities.replication_factor),
            "CHATMESH_MIN_INSYNC_REPLICAS": str(self.broker.capabilities.min_insync_replicas),
            "CHATMESH_SESSION_TIMEOUT_MS": str(self.broker.capabilities.session_timeout_ms),
            "CHATMESH_FETCH_MAX_WAIT_MS": str(max(FETCH_MAX_WAIT_MS, self.broker.capabilities.fetch_max_wait_ms)),
            **({"PORT": str(port)} if port is not None else {}),
            **self.env,
            **env,
        }
        process = ChildProcess(
            [sys.executable, "-m", f"services.{service.value}"],
            log_path=self.folder / f"{service_id}.log",
            env=environment,
            cwd=ROOT,
        )
        replica = Replica(service, service_id, process, port)
        self.replicas.append(replica)
        process.start()
        return replica

    def retire(self, replica: Replica) -> None:
        """A replica that ended is expected no more."""
        self.replicas.remove(replica)
        self.retired.append(replica)

    async def wait_ready(self, timeout_s: float = READY_S, *, service: Service | None = None) -> None:
        """Return once every replica, or every one of `service`, beats `ready` and its gateways answer /readyz.

        Raises AssertionError with the logs where one has ended, or is not ready in time.
        """
        watcher: ClusterWatcher | None = None
        try:
            async with asyncio.timeout(timeout_s):
                watcher = await self._watcher()
                while not await self._all_ready(watcher, service):
                    self._raise_if_ended(service)
                    await asyncio.sleep(0.05)
        except TimeoutError as error:
            raise AssertionError(f"the mesh was not ready after {timeout_s:g} s\n{self.logs()}") from error
        finally:
            if watcher is not None:
                await watcher.stop()

    async def _watcher(self) -> ClusterWatcher:
        """Heartbeats from now on, once the broker answers: on a busy machine it may need longer than a request may."""
        while True:
            watcher = ClusterWatcher(self.settings, Service.GATEWAY)
            try:
                await watcher.start()
            except BrokerUnavailableError:
                await asyncio.sleep(0.5)
            else:
                return watcher

    async def _all_ready(self, watcher: ClusterWatcher, service: Service | None) -> bool:
        members = watcher.cluster.members
        running = [r for r in self._expected(service) if r.process.running]
        if not all(r.id in members and members[r.id].beat.state == "ready" for r in running):
            return False
        async with httpx.AsyncClient() as client:
            for replica in running:
                if replica.port is not None:
                    try:
                        answer = await client.get(f"http://127.0.0.1:{replica.port}/readyz")
                    except httpx.TransportError:
                        return False
                    if answer.status_code != 200:
                        return False
        return True

    def _expected(self, service: Service | None) -> list[Replica]:
        return self.replicas if service is None else self.of(service)

    def _raise_if_ended(self, service: Service | None) -> None:
        for replica in self._expected(service):
            if not replica.process.running:
                raise AssertionError(f"{replica.id} ended with {replica.process.exit_code}\n{self.logs()}")

    def logs(self) -> str:
        """The last lines of every replica."""
        return "\n".join(f"--- {r.id}\n" + "\n".join(r.process.log_tail(30)) for r in self.replicas)

    def stop(self) -> None:
        """End everything, gateways first, within one deadline."""
        deadline = Deadline(STOP_S)
        for replica in self.replicas:
            replica.process.terminate()
        for replica in self.replicas:
            replica.process.stop(deadline.remaining_s())
