"""What a WebSocket's handshake asks for: who, which subprotocol, and what to resume."""

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.websockets import WebSocket

from services.gateway.api.responses import starting_after_of
from services.gateway.auth import KEY_PROTOCOL, Authenticator, Caller
from services.gateway.errors import bad_request
from services.gateway.lookup import Lookup
from shared.ids import ResponseId

_SPOKEN = "realtime"
_VERSIONS = "openai-beta."


@dataclass(frozen=True, slots=True)
class Resume:
    """Go on with a response behind that sequence number (-1: from its start)."""

    response_id: ResponseId
    starting_after: int


@dataclass(frozen=True, slots=True)
class Handshake:
    """A handshake that is accepted, with `subprotocol` if the client offered any."""

    caller: Caller
    subprotocol: str | None
    resume: Resume | None


def shake_hands(websocket: WebSocket, authenticator: Authenticator, lookup: Lookup) -> Handshake:
    """Raises ApiError: what is wrong, as the HTTP answer to the handshake."""
    caller = authenticator.caller(websocket)
    return Handshake(caller, choose_protocol(websocket.scope.get("subprotocols", ())), _resume(websocket, lookup))


def choose_protocol(offered: Sequence[str]) -> str | None:
    """The subprotocol to answer with: of those offered, one that is no secret and that we speak.

    Browsers cannot set headers, so OpenAI's clients for them offer `realtime` beside the key as subprotocols (and
    `openai-beta.…`, organization and project in older ones), and close unless the server takes one of them up. A key
    is never sent back: it would stand in the answer's headers. Raises ApiError 400 for a key that is offered alone.
    """
    for protocol in offered:
        if protocol == _SPOKEN:
            return protocol
    for protocol in offered:
        if protocol.startswith(_VERSIONS):
            return protocol
    if any(protocol.startswith(KEY_PROTOCOL) for protocol in offered):
        raise bad_request(
            f"Offer the subprotocol '{_SPOKEN}' beside '{KEY_PROTOCOL}…': a key is never sent back.",
            code="missing_subprotocol",
        )
    return None


def _resume(websocket: WebSocket, lookup: Lookup) -> Resume | None:
    """`?response_id=…&starting_after=…`. Raises ApiError 400 and 404 for what cannot be either."""
    response_id = websocket.query_params.get("response_id")
    starting_after = websocket.query_params.get("starting_after")
    if response_id is None:
        if starting_after is not None:
            raise bad_request("'starting_after' needs 'response_id' beside it.", param="starting_after")
        return None
    return Resume(lookup.parse(response_id), starting_after_of(starting_after))
