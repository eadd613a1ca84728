"""From the event log to many clients: home partitions, followers, buffers and cursors (DESIGN 7)."""

from services.gateway.fanout.fanout import Fanout, Lease, Presence, ReplayLog
from services.gateway.fanout.homes import home_partitions
from services.gateway.fanout.scans import Scans
from services.gateway.fanout.stream import Cursor, Stream, StreamLostError

__all__ = [
    "Cursor",
    "Fanout",
    "Lease",
    "Presence",
    "ReplayLog",
    "Scans",
    "Stream",
    "StreamLostError",
    "home_partitions",
]
