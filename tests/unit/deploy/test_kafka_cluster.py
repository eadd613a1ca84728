"""What can be known of a cluster without starting it."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from deploy.brokers import BrokerError
from deploy.brokers.__main__ import main
from deploy.brokers.cluster import ClusterNode, JvmCluster, Reviver
from deploy.brokers.kafka_settings import CLUSTER, COPIES, IN_SYNC, cluster_node


def test_everything_that_kafka_keeps_outlives_the_loss_of_a_node() -> None:
    settings = cluster_node(2, client_listener="127.0.0.1:1", controllers=["127.0.0.1:7", "127.0.0.1:8", "127.0.0.1:9"])
    copies = {name: value for name, value in settings.items() if name.endswith("replication.factor")}
    in_sync = {name: value for name, value in settings.items() if name.endswith((".min.isr", "min.insync.replicas"))}
    assert set(copies.values()) == {str(COPIES)} and set(in_sync.values()) == {str(IN_SYNC)}
    assert {name.partition(".")[0] for name in copies} == {"default", "offsets", "transaction", "share"}
    assert (CLUSTER.replication_factor, CLUSTER.min_insync_replicas) == (COPIES, IN_SYNC)
    assert IN_SYNC < COPIES


def test_each_node_knows_all_voters_and_listens_where_they_look_for_it() -> None:
    cluster = JvmCluster(port=20_092)
    settings = [node._settings() for node in cluster.nodes]
    (voters,) = {each["controller.quorum.voters"] for each in settings}
    for node, each in zip(cluster.nodes, settings, strict=True):
        assert f"{each['node.id']}@{each['listeners'].rpartition('CONTROLLER://')[2]}" in voters.split(",")
        assert cluster.node(int(each["node.id"])) is node
    assert len({node.cluster_id for node in cluster.nodes}) == 1
    assert cluster.bootstrap == "127.0.0.1:20092,127.0.0.1:20093,127.0.0.1:20094"


def test_two_nodes_are_no_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BrokerError, match="3 nodes or more"):
        JvmCluster(2)
    assert main(["kafka", "--nodes", "2"]) == 1
    assert capsys.readouterr().err.strip() == "a cluster has 3 nodes or more: with fewer of them none can be lost"


@pytest.mark.parametrize("arguments", [["kafka", "99999999"], ["kafka", "0"], ["kafka", "65534", "--nodes", "3"]])
def test_ports_that_there_are_not_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "port" in capsys.readouterr().err.splitlines()[-1]


def test_only_apache_kafka_can_be_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["embedded", "--nodes", "3"])
    assert caught.value.code == 2
    assert "only kafka can be a cluster" in capsys.readouterr().err


@dataclass
class FakeNode:
    number: int
    running: bool = True
    listener: str = "127.0.0.1:1"
    pid: int = 7


@dataclass
class FakeCluster:
    nodes: list[FakeNode] = field(default_factory=lambda: [FakeNode(1), FakeNode(2), FakeNode(3)])
    brought_back: list[list[int]] = field(default_factory=list)

    def bring_back(self, nodes: Sequence[FakeNode]) -> None:
        self.brought_back.append([node.number for node in nodes])
        for node in nodes:
            node.running = True
        assert 2 * sum(node.running for node in self.nodes) > len(self.nodes), "they would wait for a majority"


def test_a_node_that_is_gone_comes_back_after_a_while() -> None:
    cluster, said, now_s = FakeCluster(), list[str](), [0.0]
    reviver = Reviver(cluster, 15.0, said.append, lambda: now_s[0])  # type: ignore[arg-type]
    reviver.look()
    cluster.nodes[1].running = False
    for now_s[0] in (1.0, 2.0, 15.9):
        reviver.look()
        assert not cluster.nodes[1].running
    now_s[0] = 16.0
    reviver.look()
    reviver.look()
    assert cluster.nodes[1].running
    assert said == ["node 2 is gone; it comes back in 15 s", "node 2 is back: 127.0.0.1:1, process 7"]


def test_nodes_that_went_together_come_back_together() -> None:
    cluster, now_s = FakeCluster(), [0.0]
    reviver = Reviver(cluster, 15.0, lambda _: None, lambda: now_s[0])  # type: ignore[arg-type]
    for node in cluster.nodes:
        node.running = False
    reviver.look()
    now_s[0] = 15.0
    reviver.look()
    reviver.look()
    assert cluster.brought_back == [[1, 2, 3]]


def test_a_node_waits_for_those_without_whom_it_would_not_answer() -> None:
    cluster, now_s = FakeCluster(), [0.0]
    reviver = Reviver(cluster, 15.0, lambda _: None, lambda: now_s[0])  # type: ignore[arg-type]
    for now_s[0], node in zip((0.0, 5.0, 10.0), cluster.nodes, strict=True):
        node.running = False
        reviver.look()
    for now_s[0] in (15.0, 20.0, 25.0):
        reviver.look()
    assert cluster.brought_back == [[1, 2], [3]]


HANGS = "import time; print('up', flush=True); time.sleep(600)"
FAILS = "import sys; sys.exit('no room left')"
ANSWERS = "import time; print('Kafka Server started', flush=True); time.sleep(600)"


class Scripted(JvmCluster):
    """Nodes that run the next script of theirs at each start."""

    def __init__(self, *scripts: str) -> None:
        super().__init__()
        for node, script in zip(self.nodes, scripts, strict=True):
            self.tell(node, script)

    def tell(self, node: ClusterNode, script: str) -> None:
        node._prepare = lambda folder: [sys.executable, "-c", script]  # type: ignore[method-assign]
        if node._child is not None:
            node._child.argv = [sys.executable, "-c", script]


def test_one_that_fails_is_told_at_once_whoever_else_waits() -> None:
    cluster = Scripted(HANGS, ANSWERS, FAILS)
    began_at = time.monotonic()
    with pytest.raises(BrokerError, match=r"(?s)ended with exit code 1 .*no room left"):
        cluster.start()
    assert time.monotonic() - began_at < 20, "it waited for the time of a node that hangs"
    assert not [node.number for node in cluster.nodes if node.running]


def test_a_cluster_comes_up_again_after_a_start_that_was_given_up() -> None:
    """Those who were called off once have their time again."""
    slow = "import time; time.sleep(0.2); print('Kafka Server started', flush=True); time.sleep(600)"
    with Scripted(ANSWERS, ANSWERS, ANSWERS) as cluster:
        cluster.tell(cluster.nodes[0], HANGS)
        cluster.tell(cluster.nodes[2], FAILS)
        with pytest.raises(BrokerError, match="no room left"):
            cluster.restart()
        assert not cluster.nodes[0].running, "it would wait on"
        for node in cluster.nodes:
            cluster.tell(node, slow)
        cluster.nodes[0].restart()
        cluster.bring_back(cluster.nodes[1:])
        assert all(node.running for node in cluster.nodes)
        cluster.kill()
        cluster.restart()
        assert all(node.running for node in cluster.nodes)
