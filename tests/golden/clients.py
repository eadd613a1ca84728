"""What clients get: a whole gateway on a real socket, behind it a log (or a store) that holds what a case says.

Every dialect of DESIGN 9 is asked for in turn, each time as if its request had led to the case's public log.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import httpx
import websockets

from services.history.stores.port import RECORDABLE
from services.history.stores.sqlite import SqliteStore
from shared.ids import ResponseId, new_response_id, parse_response_id
from shared.records import Events, Rejected, Requested, ResponseFound
from tests.unit.gateway.harness import MODEL, Mesh, gateway

AUTHORIZED = {"authorization": "Bearer sk-a"}
LANE = "lane"
_SHOWN_HEADERS = ("allow", "retry-after", "www-authenticate")
_LAST_FRAMES = ("response.completed", "response.incomplete", "response.failed", "error")

RESPONSES_BODY: Mapping[str, Any] = {"model": MODEL, "input": "Hi"}
CHAT_BODY: Mapping[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}


@dataclass
class Told:
    """What stands behind the gateway: the public log of each response that is requested, in turn, or a refusal."""

    logs: Sequence[Sequence[Events]]
    reply: Rejected | None = None
    mesh: Mesh = field(init=False)

    def __post_init__(self) -> None:
        self.mesh = Mesh(self._script)
        self._log_of = {log[0].response_id: log for log in self.logs}
        self._minted = 0

    def afresh(self) -> None:
        """The next request finds an empty log and gets the first id."""
        self.mesh.log.records.clear()
        self._minted = 0

    def mint(self, partition: int) -> ResponseId:
        """The id of the next request; any that the gateway would mint where the case has no log."""
        if not self.logs:
            return new_response_id(partition)
        self._minted += 1
        return parse_response_id(self.logs[self._minted - 1][0].response_id)

    def _script(self, mesh: Mesh, request: Requested) -> list[Any]:
        if self.reply is not None:
            mesh.replies.deliver(_readdressed(self.reply, request))
            return []
        return list(self._log_of[request.response_id])


def _readdressed(reply: Rejected, request: Requested) -> Rejected:
    fields = {name: getattr(reply, name) for name in reply.__struct_fields__}
    return Rejected(**{**fields, "correlation_id": request.response_id})


@asynccontextmanager
async def asking(
    told: Told, headers: Mapping[str, str] = AUTHORIZED, **settings: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the gateway that stands before what is told."""
    with patch("services.gateway.ingress.ingress.new_response_id", told.mint), patch("asyncio.to_thread", _in_line):
        async with (
            gateway(told.mesh, keys=True, **settings) as mesh,
            httpx.AsyncClient(base_url=mesh.url, headers=headers) as http,
        ):
            yield http


async def _in_line(function: Callable[..., Any], *args: Any) -> Any:
    """For `asyncio.to_thread`: choices that are counted in threads would mint their ids in any order."""
    return function(*args)


async def reply(http: httpx.AsyncClient, method: str, path: str, body: Any = None) -> dict[str, Any]:
    """An answer: its status, the headers that say what to do, and its body as text."""
    content = None if body is None else json.dumps(body).encode()
    answer = await http.request(method, path, content=content)
    headers = {name: answer.headers[name] for name in _SHOWN_HEADERS if name in answer.headers}
    return {"status": answer.status_code, **({"headers": headers} if headers else {}), "body": answer.text}


async def frames(
    told: Told, body: Mapping[str, Any], query: str = "", headers: Mapping[str, str] = AUTHORIZED
) -> list[str]:
    """The messages over a WebSocket up to the end of a response; of a handshake that was refused, status and body."""
    url = told.mesh.url.replace("http", "ws") + "/responses" + query
    try:
        async with websockets.connect(url, additional_headers={"authorization": headers["authorization"]}) as socket:
            if not query:
                await socket.send(json.dumps({"type": "response.create", "stream_id": LANE, **body}))
            found: list[str] = []
            while not found or json.loads(found[-1])["type"] not in _LAST_FRAMES:
                found.append(str(await socket.recv()))
            return found
    except websockets.InvalidStatus as refused:
        return [f"{refused.response.status_code} {refused.response.body.decode()}"]


async def tell(told: Told) -> dict[str, Any]:
    """The case's responses in every dialect, to the byte."""
    choices = {"n": len(told.logs)} if len(told.logs) > 1 else {}
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    async with asking(told) as http:
        return {
            "json": await reply(http, "POST", "/responses", RESPONSES_BODY),
            "sse": await _afresh(told, reply(http, "POST", "/responses", {**RESPONSES_BODY, "stream": True})),
            "websocket": await _afresh(told, frames(told, RESPONSES_BODY)),
            "chat_json": await _afresh(told, reply(http, "POST", "/chat/completions", {**CHAT_BODY, **choices})),
            "chat_sse": _in_events(
                await _afresh(told, reply(http, "POST", "/chat/completions", {**CHAT_BODY, **choices, **usage}))
            ),
            "stored": await _afresh(told, _from_the_store(told, http)) if told.logs else None,
        }


async def _afresh(told: Told, asked: Awaitable[Any]) -> Any:
    told.afresh()
    return await asked


def _in_events(answer: dict[str, Any]) -> dict[str, Any]:
    """A body of events, one by one; the choices of a completion in turn, for they come as they may."""
    if answer["status"] != 200:
        return answer
    events = answer["body"].removesuffix("\n\n").split("\n\n")
    return {**answer, "body": sorted(events, key=_choice_index)}


def _choice_index(event: str) -> int:
    choices = json.loads(event.removeprefix("data: ")).get("choices") if event.startswith("data: {") else None
    return choices[0]["index"] if choices else 99


async def _from_the_store(told: Told, http: httpx.AsyncClient) -> dict[str, Any]:
    """GET of the first response once the log is gone: what history's shipped store kept of it."""
    with TemporaryDirectory() as folder:
        store = SqliteStore(Path(folder) / "history.sqlite")
        await store.open()
        try:
            await store.record([record for record in told.logs[0] if isinstance(record, RECORDABLE)])
            response_id = told.logs[0][0].response_id
            kept = await store.get("acme", response_id)
        finally:
            await store.close()
    told.mesh.on_query = lambda query: (
        Rejected(gateway="", correlation_id=query.correlation_id, status=404, code="response_not_found", message="")
        if kept is None
        else ResponseFound(
            gateway="", correlation_id=query.correlation_id, accepted=kept.accepted, terminal=kept.terminal
        )
    )
    return await reply(http, "GET", f"/responses/{response_id}")
