"""The settings of the Apache Kafka that tests use: one node, the same as a process and in a container, or several."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from deploy.brokers.port import Capabilities

KAFKA_VERSION = "4.4.0"
"""Also in deploy/kafka/pom.xml; a test compares them."""

APACHE_KAFKA = Capabilities(persistent=True, log_append_time=True, idempotence=True, session_timeout_ms=1000)
"""What a node with the settings below can do."""

COPIES, IN_SYNC = 3, 2
CLUSTER = replace(APACHE_KAFKA, replication_factor=COPIES, min_insync_replicas=IN_SYNC)
"""What several of them can do: any one may be lost, and nothing that was acknowledged is."""


def single_node(*, client_listener: str, advertised: str, controller_port: int) -> dict[str, str]:
    """server.properties of a node that is broker and controller (KRaft, combined mode).

    `client_listener` and `advertised` are `host:port`. Topics are made by chatmesh alone, internal topics
    have one replica, groups settle at once (no wait for a first rebalance, session timeouts down to 0.5 s), and
    a killed broker's own session ends after 1 s: until then its successor is not admitted.
    """
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "listeners": f"PLAINTEXT://{client_listener},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{advertised}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "auto.create.topics.enable": "false",
        "default.replication.factor": "1",
        "min.insync.replicas": "1",
        "offsets.topic.num.partitions": "4",
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.num.partitions": "2",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.num.partitions": "2",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "broker.session.timeout.ms": "1000",
        "broker.heartbeat.interval.ms": "200",
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "500",
    }


def cluster_node(number: int, *, client_listener: str, controllers: Sequence[str]) -> dict[str, str]:
    """The same for node `number` (from 1) of several, `controllers` being where each is asked for its vote.

    Everything has COPIES copies, of which IN_SYNC must have a record before it counts: Kafka's own topics too. A broker
    that is silent for 2 s has failed (Kafka's default: 9 s), a controller too.
    """
    listener = controllers[number - 1]
    return single_node(
        client_listener=client_listener, advertised=client_listener, controller_port=int(listener.rpartition(":")[2])
    ) | {
        "node.id": str(number),
        "controller.quorum.voters": ",".join(f"{voter}@{where}" for voter, where in enumerate(controllers, 1)),
        "controller.quorum.fetch.timeout.ms": "2000",
        "controller.quorum.election.timeout.ms": "500",
        "broker.session.timeout.ms": "2000",
        "default.replication.factor": str(COPIES),
        "min.insync.replicas": str(IN_SYNC),
        "offsets.topic.replication.factor": str(COPIES),
        "transaction.state.log.replication.factor": str(COPIES),
        "transaction.state.log.min.isr": str(IN_SYNC),
        "share.coordinator.state.topic.replication.factor": str(COPIES),
        "share.coordinator.state.topic.min.isr": str(IN_SYNC),
    }


def as_properties(settings: Mapping[str, str]) -> str:
    """The text of a server.properties file."""
    return "".join(f"{key}={value}\n" for key, value in settings.items())


def as_container_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """The same as the variables that the image apache/kafka reads: `node.id` becomes KAFKA_NODE_ID."""
    return {"KAFKA_" + key.upper().replace(".", "_"): value for key, value in settings.items()}
