"""`python -m deploy.brokers [embedded|kafka] [port]`: one broker in the foreground until Ctrl-C."""

import signal
import sys

from deploy.brokers.embedded import EmbeddedBroker
from deploy.brokers.jvm import JvmBroker
from deploy.brokers.local_process import LocalProcessBroker
from deploy.brokers.port import BrokerError
from deploy.brokers.ports import can_bind

_KINDS: dict[str, type[LocalProcessBroker]] = {"kafka": JvmBroker, "embedded": EmbeddedBroker}
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
        print(
            f"ready: KAFKA_BOOTSTRAP_SERVERS={broker.bootstrap}\nCtrl-C ends it and deletes its data.",
            flush=True,
        )
        while signal.sigtimedwait(signals, _WATCH_S) is None:
            if not broker.running:
                print("the broker ended by itself:", *broker.log_tail(), sep="\n  ", file=sys.stderr)
                return 1
        print("stopping the broker ...", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
