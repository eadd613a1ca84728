"""Why a connection was closed, and whether another one would fare better. Pure."""

from collections.abc import Mapping

from websockets.exceptions import ConnectionClosed
from websockets.frames import Close, CloseCode

from deploy.terminal.command import printable

NO_GATEWAY = "is no gateway that this chat can talk to, or something between them changes what they say."

FINAL: Mapping[int, str] = {
    CloseCode.PROTOCOL_ERROR: NO_GATEWAY,
    CloseCode.UNSUPPORTED_DATA: NO_GATEWAY,
    CloseCode.INVALID_DATA: NO_GATEWAY,
    CloseCode.POLICY_VIOLATION: "does not serve this chat, by a rule of its own: ask whoever runs it.",
    CloseCode.MESSAGE_TOO_BIG: "takes no message of this length: send less, or have CHATMESH_BODY_LIMIT_BYTES raised.",
}
"""What to tell of the codes (RFC 6455, 7.4.1) with which the same message would be met again, behind the URL."""


def first_close(closed: ConnectionClosed) -> Close | None:
    """What the side that closed first said; None where the connection broke without a word."""
    return closed.sent if closed.rcvd is None or closed.rcvd_then_sent is False else closed.rcvd


def described(close: Close) -> str:
    """`1009 (message too big) more than 1048576 bytes`."""
    return printable(str(close))
