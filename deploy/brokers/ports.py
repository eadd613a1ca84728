"""Free TCP ports on the loopback interface, and whether somebody listens on one."""

import argparse
import random
import socket
import threading
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path

LOOPBACK = "127.0.0.1"
LAST_PORT = 65_535
_LOWEST = 20_000
_BLOCK = 64
_choosing = threading.Lock()
_gates: list[socket.socket] = []
"""Those that this process holds."""
_LINUX_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FALLBACK_EPHEMERAL = 32_768


def free_port() -> int:
    """A port that nobody uses now, below those that the kernel gives to outgoing connections.

    A port from that range would be wrong for a server that restarts: a client that keeps reconnecting to the
    stopped server can be given the very same port, connect to itself (TCP simultaneous open), and hold it. No port
    comes twice, and none that another process was given by this: whoever was given it may not listen on it yet.
    """
    with _choosing:
        for port in _ports():
            if can_bind(port):
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


def port_of(text: str) -> int:
    """A port as somebody wrote it on a command line. Raises ArgumentTypeError for what is none."""
    if not (text.isdecimal() and 0 < int(text) <= LAST_PORT):
        raise argparse.ArgumentTypeError(f"{text!r} is no port: 1 to {LAST_PORT}")
    return int(text)


def accepts(host: str, port: int, timeout_s: float) -> bool:
    """Whether somebody accepts connections at `host:port`."""
    try:
        socket.create_connection((host, port), timeout_s).close()
    except OSError:
        return False
    return True


@cache
def _ports() -> Iterator[int]:
    """Each once, block by block, of blocks that are this process's own until it ends."""
    blocks = list(range(_LOWEST, _first_ephemeral() - _BLOCK, _BLOCK))
    random.Random().shuffle(blocks)
    return (port for gate in blocks if _hold(gate) for port in range(gate + 1, gate + _BLOCK))


def _hold(gate: int) -> bool:
    """Bind the first port of a block, on which nobody ever listens: whoever holds it has the block."""
    held = socket.socket()
    try:
        held.bind((LOOPBACK, gate))
    except OSError:
        held.close()
        return False
    _gates.append(held)
    return True


def _first_ephemeral() -> int:
    try:
        return int(_LINUX_EPHEMERAL.read_text().split()[0])
    except OSError:  # not Linux
        return _FALLBACK_EPHEMERAL
