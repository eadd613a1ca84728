"""Free TCP ports on the loopback interface, and whether somebody listens on one."""

import random
import socket
from collections import deque
from collections.abc import Collection
from functools import cache
from pathlib import Path

LOOPBACK = "127.0.0.1"
_LOWEST = 20_000
_LINUX_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FALLBACK_EPHEMERAL = 32_768


def free_port() -> int:
    """A port that nobody uses now, below those that the kernel gives to outgoing connections.

    A port from that range would be wrong for a server that restarts: a client that keeps reconnecting to the
    stopped server can be given the very same port, connect to itself (TCP simultaneous open), and hold it. No port
    comes again before all others did: whoever was given it may not listen on it yet.
    """
    candidates = _candidates()
    for _ in range(len(candidates)):
        candidates.rotate()
        if can_bind(port := candidates[0]):
            return port
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def free_ports(count: int, *, but: Collection[int] = ()) -> list[int]:
    """So many different ones, and none of `but`."""
    found: list[int] = []
    while len(found) < count:
        if (port := free_port()) not in (*but, *found):
            found.append(port)
    return found


def can_bind(port: int, host: str = LOOPBACK) -> bool:
    """Whether a server could listen on `host:port` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections in TIME_WAIT do not count
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def accepts(host: str, port: int, timeout_s: float) -> bool:
    """Whether somebody accepts connections at `host:port`."""
    try:
        socket.create_connection((host, port), timeout_s).close()
    except OSError:
        return False
    return True


@cache
def _candidates() -> deque[int]:
    """In an order that no other process has; the first is the one that was looked at last."""
    ports = list(range(_LOWEST, max(_LOWEST, _first_ephemeral())))
    random.Random().shuffle(ports)
    return deque(ports)


def _first_ephemeral() -> int:
    try:
        return int(_LINUX_EPHEMERAL.read_text().split()[0])
    except OSError:  # not Linux
        return _FALLBACK_EPHEMERAL
