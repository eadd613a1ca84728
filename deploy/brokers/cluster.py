"""Apache Kafka as several nodes on this machine: what a mesh lives on where a broker may be lost.

Each node is broker and controller (KRaft, combined mode). Topics have three copies, of which two must have a record
before it counts, Kafka's own topics too: any one node may die, and the others go on.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from deploy.brokers.jvm import JvmBroker, new_cluster_id
from deploy.brokers.kafka_settings import CLUSTER, COPIES, cluster_node
from deploy.brokers.port import Broker, BrokerError
from deploy.brokers.ports import LOOPBACK, free_ports

_START_TIMEOUT_S = 120.0


class ClusterNode(JvmBroker):
    """Node `number` of a cluster. It answers once most of the nodes do."""

    capabilities = CLUSTER
    start_timeout_s = _START_TIMEOUT_S
    # Several of them start on one machine, and again: a third less of its time (2.4 s for 3.8 s), for less speed later.
    java_options = ("-XX:TieredStopAtLevel=1",)

    def __init__(self, number: int, *, port: int, cluster_id: str, controllers: Sequence[str]) -> None:
        super().__init__(port=port)
        self.number = number
        self.name = f"kafka-node-{number}"
        self.cluster_id = cluster_id
        self._controllers = controllers

    def _settings(self) -> dict[str, str]:
        return cluster_node(self.number, client_listener=self.listener, controllers=self._controllers)


class JvmCluster(Broker):
    """`count` nodes, at `port` and the ports behind it, or wherever there is room."""

    name = "kafka-cluster"
    capabilities = CLUSTER

    def __init__(self, count: int = COPIES, *, port: int | None = None) -> None:
        if count < COPIES:
            raise BrokerError(f"a cluster has {COPIES} nodes or more: with fewer of them none can be lost")
        ports = free_ports(count) if port is None else list(range(port, port + count))
        controllers = [f"{LOOPBACK}:{free}" for free in free_ports(count, but=ports)]
        cluster_id = new_cluster_id()
        self.nodes = tuple(
            ClusterNode(number, port=port, cluster_id=cluster_id, controllers=controllers)
            for number, port in enumerate(ports, 1)
        )

    @property
    def bootstrap(self) -> str:
        return ",".join(node.listener for node in self.nodes)

    def node(self, number: int) -> ClusterNode:
        """The one that Kafka calls `number`."""
        return self.nodes[number - 1]

    def start(self) -> None:
        try:
            self._of_each(ClusterNode.start)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Its data goes, so no node needs to hand over to others, which end as well."""
        for node in self.nodes:
            if node.running:
                node.kill()
            node.stop()

    def kill(self) -> None:
        self._of_each(ClusterNode.kill)

    def restart(self) -> None:
        self.kill()
        self._of_each(ClusterNode.restart)

    def _of_each(self, act: Callable[[ClusterNode], None]) -> None:
        """At once: a node waits for others before it answers. Raises BrokerError."""
        with ThreadPoolExecutor(max_workers=len(self.nodes)) as threads:
            try:
                list(threads.map(act, self.nodes))
            except BaseException:
                self._give_up()
                raise

    def _give_up(self) -> None:
        """One has failed, or Ctrl-C came: the others would wait for each other."""
        for node in self.nodes:
            node.start_timeout_s = 0.0
            if node.running:
                node.kill()


class Reviver:
    """Starts nodes again that ended or were killed, `after_s` later, as a deployment's supervisor does."""

    def __init__(
        self,
        cluster: JvmCluster,
        after_s: float,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._after_s = after_s
        self._say = say
        self._clock = clock
        self._missed: dict[int, float] = {}

    def look(self) -> None:
        """Notice who is gone, and bring back whose time has come. Raises BrokerError where one does not come back."""
        for node in self._cluster.nodes:
            if node.running:
                continue
            if node.number not in self._missed:
                self._missed[node.number] = self._clock()
                self._say(f"node {node.number} is gone; it comes back in {self._after_s:g} s")
            elif self._clock() - self._missed[node.number] >= self._after_s:
                node.restart()
                del self._missed[node.number]
                self._say(f"node {node.number} is back: {node.listener}, process {node.pid}")
