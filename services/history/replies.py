"""The reply half of request/reply: every answer to a gateway is built here."""

from services.history.ports import Outgoing
from shared.records import Rejected, Reply, ReplyAddress
from shared.topics import REPLIES


def reply(to: ReplyAddress, record: Reply) -> Outgoing:
    """`record` on its way to the gateway that asked."""
    return Outgoing(REPLIES, record, partition=to.partition)


def rejection(
    to: ReplyAddress, correlation_id: str, status: int, code: str, message: str, param: str | None = None
) -> Outgoing:
    """An HTTP error to be; its type follows from the status."""
    error_type = "server_error" if status >= 500 else "invalid_request_error"
    return reply(
        to,
        Rejected(
            gateway=to.gateway,
            correlation_id=correlation_id,
            status=status,
            code=code,
            message=message,
            param=param,
            error_type=error_type,
        ),
    )
