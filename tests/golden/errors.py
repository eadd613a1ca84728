"""Golden cases of requests that come to nothing: in every dialect, to the byte what its clients are told.

A case is a JSON file in `errors/`. `body` is sent to /v1/responses (as JSON, for a stream, over a WebSocket), `chat`
to /v1/chat/completions (as JSON, for a stream); `reply` is what moderation or history answer to the gateway, `settings`
are the gateway's, `authorization` is another header than a good one; `dialects` are those that are asked (all). Or
`ids` are asked for, in every way in which an id can be.
"""

from pathlib import Path
from typing import Any

import httpx
import msgspec

from shared.records import Rejected
from tests.golden.clients import AUTHORIZED, Told, asking, frames, reply
from tests.golden.harness import Case

ERRORS = sorted((Path(__file__).parent / "errors").glob("*.json"))
DIALECTS = ("json", "sse", "websocket", "chat_json", "chat_sse")


async def refusal(case: Case) -> dict[str, Any]:
    """What every kind of client is told, in the shape of the case's `expected`."""
    told = Told([], msgspec.convert(case["reply"], Rejected) if "reply" in case else None)
    told.mesh.on_query = lambda query: Rejected(
        gateway="", correlation_id=query.correlation_id, status=404, code="response_not_found", message=""
    )
    headers = {"authorization": case["authorization"]} if "authorization" in case else AUTHORIZED
    async with asking(told, headers, **case.get("settings", {})) as http:
        if "ids" in case:
            return {response_id: await _by_id(told, http, response_id) for response_id in case["ids"]}
        return {name: await _ask(told, http, case, name) for name in case.get("dialects", DIALECTS)}


async def _ask(told: Told, http: httpx.AsyncClient, case: Case, dialect: str) -> Any:
    match dialect:
        case "json":
            return await reply(http, "POST", "/responses", case["body"])
        case "sse":
            return await reply(http, "POST", "/responses", {**case["body"], "stream": True})
        case "websocket":
            return await frames(told, case["body"], headers=dict(http.headers))
        case "chat_json":
            return await reply(http, "POST", "/chat/completions", case["chat"])
        case "chat_sse":
            return await reply(http, "POST", "/chat/completions", {**case["chat"], "stream": True})
        case _:
            raise ValueError(f"no dialect is called {dialect!r}")


async def _by_id(told: Told, http: httpx.AsyncClient, response_id: str) -> dict[str, Any]:
    path = f"/responses/{response_id}"
    return {
        "json": await reply(http, "GET", path),
        "sse": await reply(http, "GET", f"{path}?stream=true&starting_after=3"),
        "websocket": await frames(told, {}, f"?response_id={response_id}&starting_after=3"),
        "cancel": await reply(http, "POST", f"{path}/cancel"),
    }
