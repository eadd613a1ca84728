"""`python -m deploy.stores [ferretdb] [port]`: one server in the foreground until Ctrl-C."""

import argparse
import signal
import sys
from collections.abc import Sequence

from deploy.brokers.ports import can_bind, port_of
from deploy.stores.ferretdb import FerretServer
from deploy.stores.port import StoreServerError

_WATCH_S = 0.5
_DATABASE = "chatmesh"


def main(argv: Sequence[str]) -> int:
    """Exit code 0 after a signal, 1 when the server cannot start or ends by itself, 2 for wrong arguments, 130 after
    Ctrl-C before it was ready."""
    port = _parser().parse_args(argv).port
    if port is not None and not can_bind(port):
        print(f"port {port} is taken by another program; choose another with MONGODB_PORT", file=sys.stderr)
        return 1
    try:
        return _serve(FerretServer(port=port))
    except StoreServerError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.stores", description=__doc__)
    parser.add_argument("kind", nargs="?", choices=[FerretServer.name], default=FerretServer.name, help="(ferretdb)")
    parser.add_argument("port", nargs="?", type=port_of, help="where it listens")
    return parser


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
