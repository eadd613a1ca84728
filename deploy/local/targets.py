"""Where the services of a local run show their metrics: a port for each, and a file that tells Prometheus of them."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from deploy.brokers.ports import LOOPBACK, can_bind, free_port
from deploy.local.errors import RunError
from shared.topics import Service

NAMESPACE = "chatmesh"
_HIGHEST_PORT = 65535


def management_ports(first: int | None) -> dict[Service, int]:
    """A port for each service: `first` and those behind it; free ones where it is None or 0.

    Four processes on one machine cannot share the one that CHATMESH_MANAGEMENT_PORT names. Raises RunError for a port
    that is taken.
    """
    if not first:
        return {service: free_port() for service in Service}
    ports = {service: first + number for number, service in enumerate(Service)}
    for service, port in ports.items():
        if port > _HIGHEST_PORT or not can_bind(port):
            raise RunError(
                f"CHATMESH_MANAGEMENT_PORT={first}: {service.value} would show its metrics at port {port}, which is "
                f"not free; choose a port with {len(ports) - 1} free ones behind it, or none: then free ones are found"
            )
    return ports


def targets(ports: Mapping[Service, int]) -> list[dict[str, object]]:
    """The services in the format of Prometheus' `file_sd_configs`, under the jobs that OpenTelemetry's rules give."""
    return [
        {"targets": [f"{LOOPBACK}:{port}"], "labels": {"job": f"{NAMESPACE}/{service.value}"}}
        for service, port in ports.items()
    ]


@contextlib.contextmanager
def told_to_prometheus(path: Path, ports: Mapping[Service, int]) -> Iterator[None]:
    """Within the block the file names the services; a run that is over has no targets."""
    _replace(path, json.dumps(targets(ports), indent=2) + "\n")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _replace(path: Path, text: str) -> None:
    """Whole or not at all: Prometheus reads the file again whenever it changes."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)
