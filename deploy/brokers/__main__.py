"""`python -m deploy.brokers [embedded|kafka|secured] [port]`: one broker in the foreground until Ctrl-C.

`secured` is Apache Kafka with TLS, passwords and access lists, for trying things out; its passwords are printed.
"""

import signal
import sys

from deploy.brokers.embedded import EmbeddedBroker
from deploy.brokers.jvm import JvmBroker
from deploy.brokers.local_process import LocalProcessBroker
from deploy.brokers.port import SUPER_USER, BrokerError
from deploy.brokers.ports import can_bind
from deploy.brokers.secured import SecuredJvmBroker

_KINDS: dict[str, type[LocalProcessBroker]] = {
    "kafka": JvmBroker,
    "embedded": EmbeddedBroker,
    "secured": SecuredJvmBroker,
}
_WATCH_S = 0.5


def main(argv: list[str]) -> int:
    """Exit code 0 after a signal, 1 when the broker cannot start or ends by itself."""
    kind = argv[0] if argv else "kafka"
    port = int(argv[1]) if len(argv) > 1 else None
    if kind not in _KINDS:
        print(f"no such broker: {kind}; there are {', '.join(_KINDS)}", file=sys.stderr)
        return 2
    if port is not None and not can_bind(port):
        print(f"port {port} is taken by another program; choose another with KAFKA_PORT", file=sys.stderr)
        return 1
    try:
        return _serve(_KINDS[kind](port=port))
    except BrokerError as error:
        print(error, file=sys.stderr)
        return 1


def _serve(broker: LocalProcessBroker) -> int:
    signals = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    print(f"starting the {broker.name} broker (the first time it is downloaded) ...", flush=True)
    with broker:
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        print(f"ready: {_variables(broker)}\nCtrl-C ends it and deletes its data.", flush=True)
        while signal.sigtimedwait(signals, _WATCH_S) is None:
            if not broker.running:
                print("the broker ended by itself:", *broker.log_tail(), sep="\n  ", file=sys.stderr)
                return 1
        print("stopping the broker ...", flush=True)
    return 0


def _variables(broker: LocalProcessBroker) -> str:
    """How a client gets in; where names are asked for, as the super user, and the other names' passwords."""
    access = {"KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap, **broker.access(SUPER_USER)}
    lines = [" ".join(f"{name}={value}" for name, value in access.items())]
    if isinstance(broker, SecuredJvmBroker):
        others = {name: password for name, password in broker.passwords.items() if name != SUPER_USER}
        lines += ["other principals, with no rights yet:", *(f"  {name}  {word}" for name, word in others.items())]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
