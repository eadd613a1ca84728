"""What the services tell about themselves: heartbeats on the log, and the gateway's /readyz."""

import asyncio

from deploy.local.progress import Sign
from deploy.local.settings import LOOPBACK
from shared.heartbeats import ClusterWatcher

_HTTP_TIMEOUT_S = 2.0
_HTTP_OK = 200


def sign_of(watcher: ClusterWatcher, service_id: str) -> Sign | None:
    """The last sign of life of a service, None before its first."""
    member = watcher.cluster.members.get(service_id)
    return Sign(member.beat.state, member.beat.detail) if member else None


async def answers_ready(port: int) -> bool:
    """Whether `GET /readyz` on this machine answers 200 now."""
    try:
        async with asyncio.timeout(_HTTP_TIMEOUT_S):
            return await _status(port, "/readyz") == _HTTP_OK
    except (OSError, TimeoutError, ValueError, IndexError):  # not listening yet, or not speaking HTTP yet
        return False


async def _status(port: int, path: str) -> int:
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {LOOPBACK}\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        return int((await reader.readline()).split()[1])
    finally:
        writer.close()
