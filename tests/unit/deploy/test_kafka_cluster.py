"""What can be known of a cluster without starting it."""

from dataclasses import dataclass, field

import pytest

from deploy.brokers import BrokerError
from deploy.brokers.__main__ import main
from deploy.brokers.cluster import JvmCluster, Reviver
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

    def restart(self) -> None:
        self.running = True


@dataclass
class FakeCluster:
    nodes: list[FakeNode] = field(default_factory=lambda: [FakeNode(1), FakeNode(2), FakeNode(3)])


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
