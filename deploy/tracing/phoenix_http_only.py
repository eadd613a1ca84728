"""Starts Phoenix without its OTLP/gRPC port; runs in the environment of requirements/tracing.lock.

Phoenix 20 opens that port on all interfaces, whatever PHOENIX_HOST says, and has no setting against it
(`phoenix/server/grpc_server.py`, `add_insecure_port("[::]:…")`). Spans come over HTTP here, so nobody misses it.
"""

import sys
from functools import partial

from phoenix.server import app  # type: ignore[import-not-found,unused-ignore]
from phoenix.server.main import main  # type: ignore[import-not-found,unused-ignore]


def serve() -> None:
    """`phoenix serve`."""
    grpc_server = app.GrpcServer
    app.GrpcServer = lambda *args, **options: partial(grpc_server, *args, **{**options, "disabled": True})()
    sys.argv = ["phoenix", "serve"]
    main()


if __name__ == "__main__":
    serve()
