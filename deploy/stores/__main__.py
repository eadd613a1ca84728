"""`python -m deploy.stores [ferretdb] [port]`: one server in the foreground until Ctrl-C."""

import signal
import sys

from deploy.brokers.ports import can_bind
from deploy.stores.ferretdb import FerretServer
from deploy.stores.port import StoreServerError

_WATCH_S = 0.5
_DATABASE = "chatmesh"


def main(argv: list[str]) -> int:
    """Exit code 0 after a signal, 1 when the server cannot start or ends by itself."""
    kind = argv[0] if argv else FerretServer.name
    port = int(argv[1]) if len(argv) > 1 else None
    if kind != FerretServer.name:
        print(f"no such server: {kind}; there is {FerretServer.name}", file=sys.stderr)
        return 2
    if port is not None and not can_bind(port):
        print(f"port {port} is taken by another program; choose another with MONGODB_PORT", file=sys.stderr)
        return 1
    try:
        return _serve(FerretServer(port=port))
    except StoreServerError as error:
        print(error, file=sys.stderr)
        return 1


def _serve(server: FerretServer) -> int:
    signals = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    print("starting FerretDB (the first time it is built, which takes a minute or two) ...", flush=True)
    with server:
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        print(f"ready: MONGODB_URL={server.url(_DATABASE)}\nCtrl-C ends it and deletes its data.", flush=True)
        while signal.sigtimedwait(signals, _WATCH_S) is None:
            if not server.running:
                print("the server ended by itself:", *server.log_tail(), sep="\n  ", file=sys.stderr)
                return 1
        print("stopping FerretDB ...", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
