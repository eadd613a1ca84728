"""A port for each service of a local run, and the file that tells Prometheus of them."""

import json
import socket
from pathlib import Path

import pytest

from deploy.brokers.ports import LOOPBACK, can_bind, free_port
from deploy.local.errors import RunError
from deploy.local.targets import management_ports, targets, told_to_prometheus
from shared.topics import Service


@pytest.mark.parametrize("first", [None, 0])
def test_every_service_gets_a_free_port_of_its_own(first: int | None) -> None:
    ports = management_ports(first)
    assert list(ports) == list(Service)
    assert len(set(ports.values())) == len(Service)
    assert all(can_bind(port) for port in ports.values())


def test_no_port_is_given_twice() -> None:
    """Nobody listens on the ones before."""
    assert len({free_port() for _ in range(500)}) == 500


def test_a_port_that_was_named_is_the_first_of_four() -> None:
    wanted = _free_run_of_ports()
    assert list(management_ports(wanted[0]).values()) == wanted


def _free_run_of_ports() -> list[int]:
    while True:
        first = free_port()
        ports = list(range(first, first + len(Service)))
        if all(can_bind(port) for port in ports):
            return ports


def test_a_taken_port_is_named_with_its_service() -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(RunError, match=f"CHATMESH_MANAGEMENT_PORT={port}: gateway would show .* at port {port}"):
            management_ports(port)


def test_ports_end_somewhere() -> None:
    with pytest.raises(RunError, match="port 6553"):
        management_ports(65535)


def test_prometheus_reads_of_targets_while_they_are_there(tmp_path: Path) -> None:
    path, ports = tmp_path / "metrics-targets.json", {Service.GATEWAY: 9464, Service.HISTORY: 9465}
    with told_to_prometheus(path, ports):
        assert json.loads(path.read_text()) == targets(ports)
        assert targets(ports) == [
            {"targets": ["127.0.0.1:9464"], "labels": {"job": "chatmesh/gateway"}},
            {"targets": ["127.0.0.1:9465"], "labels": {"job": "chatmesh/history"}},
        ]
    assert list(tmp_path.iterdir()) == []
