"""The reply half of request/reply: every answer to a gateway is built here."""

from dataclasses import dataclass

from shared.control import Outgoing
from shared.records import Rejected, Reply, ReplyAddress
from shared.topics import REPLIES


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something cannot be done, as the client will read it; the error's type follows from the HTTP status."""

    status: int
    code: str
    message: str
    param: str | None = None


LOCKED = Refusal(
    400,
    "conversation_locked",
    "Another response is running in this conversation. Try again when it has ended.",
    "conversation",
)


def not_found(what: str, identity: str, param: str | None = None) -> Refusal:
    """404 for a `what` ("Response", "Conversation", "Item") that is not there for this tenant."""
    return Refusal(404, f"{what.lower()}_not_found", f"{what} with id '{identity}' not found.", param)


def reply(to: ReplyAddress, record: Reply) -> Outgoing:
    """`record` on its way to the gateway that asked."""
    return Outgoing(REPLIES, record, partition=to.partition)


def refused(to: ReplyAddress, correlation_id: str, why: Refusal) -> Outgoing:
    """`why` on its way to the gateway that asked."""
    return reply(
        to,
        Rejected(
            gateway=to.gateway,
            correlation_id=correlation_id,
            status=why.status,
            code=why.code,
            message=why.message,
            param=why.param,
            error_type="server_error" if why.status >= 500 else "invalid_request_error",
        ),
    )
