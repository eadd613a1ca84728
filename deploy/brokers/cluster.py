"""Apache Kafka as several nodes on this machine: what a mesh lives on where a broker may be lost.

Each node is broker and controller (KRaft, combined mode). Topics have three copies, of which two must have a record
before it counts, Kafka's own topics too: any one node may die, and the others go on.
"""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

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

    def __init__(
        self, number: int, *, port: int, cluster_id: str, controllers: Sequence[str], called_off: threading.Event
    ) -> None:
        super().__init__(port=port)
        self.called_off = called_off  # with that of the others: alone it would wait for them
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
        self._called_off = threading.Event()
        self.nodes = tuple(
            ClusterNode(number, port=port, cluster_id=cluster_id, controllers=controllers, called_off=self._called_off)
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
            self._bring_up(self.nodes, ClusterNode.start)
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
        with ThreadPoolExecutor(max_workers=len(self.nodes)) as threads:
            list(threads.map(ClusterNode.kill, self.nodes))

    def restart(self) -> None:
        self.kill()
        self.bring_back(self.nodes)

    def bring_back(self, nodes: Sequence[ClusterNode]) -> None:
        """Start these again, together. Raises BrokerError once one of them fails."""
        self._bring_up(nodes, ClusterNode.restart)

    def _bring_up(self, nodes: Sequence[ClusterNode], act: Callable[[ClusterNode], None]) -> None:
        """At once: a node waits for others before it answers. Once one has failed, or Ctrl-C came, none waits on."""
        try:
            with ThreadPoolExecutor(max_workers=len(nodes)) as threads:
                try:
                    done, _ = wait([threads.submit(act, node) for node in nodes], return_when=FIRST_EXCEPTION)
                    for one in done:
                        one.result()
                except BaseException:
                    self._called_off.set()
                    raise
        finally:
            self._called_off.clear()  # all have seen it: whoever is started next, alone too, has its time again


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
        """Notice who is gone, and bring back together whose time has come. Raises BrokerError where one does not come.

        Nodes that would be no majority with those that run would only wait for more: they come back with these.
        """
        nodes = self._cluster.nodes
        gone = [node for node in nodes if not node.running]
        for node in gone:
            if node.number not in self._missed:
                self._missed[node.number] = self._clock()
                self._say(f"node {node.number} is gone; it comes back in {self._after_s:g} s")
        due = [node for node in gone if self._clock() - self._missed[node.number] >= self._after_s]
        if not due or 2 * (len(nodes) - len(gone) + len(due)) <= len(nodes):
            return
        self._cluster.bring_back(due)
        for node in due:
            del self._missed[node.number]
            self._say(f"node {node.number} is back: {node.listener}, process {node.pid}")
