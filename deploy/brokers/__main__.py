"""`python -m deploy.brokers [embedded|kafka|secured] [port] [--nodes 3]`: a broker in the foreground until Ctrl-C.

`secured` is Apache Kafka with TLS, passwords and access lists, for trying things out; its passwords are printed.
`--nodes 3` makes Apache Kafka a cluster, to see what the mesh does when a broker is lost: end one with `kill -9`, and
it is started again after a while.
"""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial

from deploy.brokers.cluster import JvmCluster, Reviver
from deploy.brokers.embedded import EmbeddedBroker
from deploy.brokers.jvm import JvmBroker
from deploy.brokers.local_process import LocalProcessBroker
from deploy.brokers.port import SUPER_USER, Broker, BrokerError
from deploy.brokers.ports import LAST_PORT, can_bind, port_of
from deploy.brokers.secured import SecuredJvmBroker

_KINDS: dict[str, type[LocalProcessBroker]] = {
    "kafka": JvmBroker,
    "embedded": EmbeddedBroker,
    "secured": SecuredJvmBroker,
}
_WATCH_S = 0.5
_BACK_AFTER_S = 15.0
"""Long enough to see what the loss of a node does."""


def main(argv: Sequence[str]) -> int:
    """Exit code 0 after a signal, 1 when the broker cannot start or ends by itself, 2 for wrong arguments, 130 after
    Ctrl-C before it was ready."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.nodes != 1 and options.kind != "kafka":
        parser.error("--nodes: only kafka can be a cluster")
    for port in range(options.port, options.port + options.nodes) if options.port is not None else ():
        if port > LAST_PORT:
            parser.error(f"there is no port {port}")
        if not can_bind(port):
            print(f"port {port} is taken by another program; choose another with KAFKA_PORT", file=sys.stderr)
            return 1
    say = partial(print, flush=True)
    try:
        if options.nodes == 1:
            broker = _KINDS[options.kind](port=options.port)
            return _serve(broker, partial(_raise_if_ended, broker))
        cluster = JvmCluster(options.nodes, port=options.port)
        return _serve(cluster, Reviver(cluster, _BACK_AFTER_S, say).look)
    except BrokerError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.brokers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", nargs="?", choices=sorted(_KINDS), default="kafka", help="(kafka)")
    parser.add_argument(
        "port", nargs="?", type=port_of, help="where it listens; a cluster takes the ports behind it too"
    )
    parser.add_argument("--nodes", type=int, default=1, help="how many brokers of Apache Kafka: 1, or 3 and more (1)")
    return parser


def _serve(broker: Broker, watch: Callable[[], None]) -> int:
    """Run it until a signal comes; `watch` looks after it meanwhile."""
    signals = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    print(f"starting the {broker.name} broker (the first time it is downloaded) ...", flush=True)
    with broker:
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        print(f"ready: {_described(broker)}\nCtrl-C ends it and deletes its data.", flush=True)
        while signal.sigtimedwait(signals, _WATCH_S) is None:
            watch()
        print("stopping the broker ...", flush=True)
    return 0


def _raise_if_ended(broker: LocalProcessBroker) -> None:
    if not broker.running:
        raise BrokerError("\n  ".join(["the broker ended by itself:", *broker.log_tail()]))


def _described(broker: Broker) -> str:
    """How a client gets in; where names are asked for, as the super user, and the other names' passwords."""
    found = broker.capabilities
    variables = {"KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap, **broker.access(SUPER_USER)}
    if found.replication_factor > 1:
        variables["CHATMESH_REPLICATION_FACTOR"] = str(found.replication_factor)
        variables["CHATMESH_MIN_INSYNC_REPLICAS"] = str(found.min_insync_replicas)
    lines = [" ".join(f"{name}={value}" for name, value in variables.items())]
    if isinstance(broker, SecuredJvmBroker):
        others = {name: password for name, password in broker.passwords.items() if name != SUPER_USER}
        lines += ["other principals, with no rights yet:", *(f"  {name}  {word}" for name, word in others.items())]
    if isinstance(broker, JvmCluster):
        lines += [f"  node {node.number} at {node.listener}, process {node.pid}" for node in broker.nodes]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
