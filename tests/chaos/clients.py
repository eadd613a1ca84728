"""A client as it ought to be: it reads a response as server-sent events and, when the connection breaks, goes on at
another gateway behind the last event that it saw."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import msgspec

from tests.chaos.observations import (
    CREATED,
    DELTA,
    LAST_TYPES,
    Asked,
    Broken,
    Event,
    GaveUp,
    Notebook,
    Opened,
    Refused,
    now,
)
from tests.chaos.wire import Answer, BrokenConnectionError, request

RETRY_S = 0.05
BUSY_RETRY_S = 0.5


@dataclass(frozen=True, slots=True)
class Gateway:
    """One entrance to the mesh; `url` ends in /v1."""

    id: str
    url: str


Gateways = Callable[[], Sequence[Gateway]]


class StreamClient:
    """Reads one response to its end, whatever happens to gateways."""

    def __init__(self, stream: int, gateways: Gateways, notebook: Notebook) -> None:
        self.number = stream
        self._gateways = gateways
        self._notebook = notebook
        self._turn = stream
        self._response_id: str | None = None
        self._last_number = -1
        self._ended = False

    @property
    def response_id(self) -> str:
        """The response's id. Raises RuntimeError before the first event."""
        if self._response_id is None:
            raise RuntimeError(f"stream {self.number} has no response yet")
        return self._response_id

    @property
    def events_seen(self) -> int:
        """How many events came so far."""
        return self._last_number + 1

    async def run(self, wanted: dict[str, Any], patience_s: float) -> None:
        """Ask, read, resume. A request that broke before its id was known is asked anew."""
        self.asked(wanted["input"])
        await self.read_on(wanted, patience_s)

    def asked(self, prompt: str) -> None:
        """The stream begins, whoever sends the request."""
        self._notebook.write(Asked(at=now(), stream=self.number, prompt=prompt))

    async def read_on(self, wanted: dict[str, Any], patience_s: float) -> None:
        """Read what is left behind the events seen so far."""
        try:
            async with asyncio.timeout(patience_s):
                while not self._ended:
                    await self._connection(wanted)
        except TimeoutError:
            self._notebook.write(GaveUp(at=now(), stream=self.number))

    async def _connection(self, wanted: dict[str, Any]) -> None:
        gateway = self._next_gateway()
        sent_at = now()
        try:
            async with self._send(gateway, wanted) as answer:
                if answer.status == 200:
                    opened = Opened(
                        at=now(),
                        stream=self.number,
                        gateway=gateway.id,
                        sent_at=sent_at,
                        starting_after=self._last_number,
                    )
                    self._notebook.write(opened)
                    await self._read(answer)
                else:
                    await self._refused(gateway, answer)
        except BrokenConnectionError as error:
            self._broken(gateway, str(error))
        else:
            if not self._ended and answer.status == 200:
                self._broken(gateway, "the body ended before the response did")
        if not self._ended:
            await asyncio.sleep(RETRY_S)

    def _next_gateway(self) -> Gateway:
        known = self._gateways()
        self._turn += 1
        return known[self._turn % len(known)]

    def _send(self, gateway: Gateway, wanted: dict[str, Any]) -> AbstractAsyncContextManager[Answer]:
        if self._response_id is None:
            return request("POST", f"{gateway.url}/responses", json={**wanted, "stream": True})
        query = {"stream": "true", "starting_after": str(self._last_number)}
        return request("GET", f"{gateway.url}/responses/{self._response_id}", query=query)

    async def _read(self, answer: Answer) -> None:
        async for event in answer.events():
            self.see(msgspec.json.decode(event))

    def see(self, event: dict[str, Any]) -> None:
        """Note an event, however it came."""
        kind, text = event["type"], None
        if kind == CREATED:
            self._response_id = event["response"]["id"]
        elif kind == DELTA:
            text = event["delta"]
        elif kind in LAST_TYPES:
            text = output_text(event["response"])
            self._ended = True
        self._last_number = event["sequence_number"]
        seen = Event(
            at=now(),
            stream=self.number,
            type=kind,
            number=self._last_number,
            response_id=self._response_id if kind == CREATED else None,
            text=text,
        )
        self._notebook.write(seen)

    async def _refused(self, gateway: Gateway, answer: Answer) -> None:
        body = (await answer.body()).decode(errors="replace")[:500]
        refused = Refused(
            at=now(),
            stream=self.number,
            gateway=gateway.id,
            status=answer.status,
            body=body,
            resuming=self._response_id is not None,
        )
        self._notebook.write(refused)
        await asyncio.sleep(BUSY_RETRY_S)

    def _broken(self, gateway: Gateway, error: str) -> None:
        self._notebook.write(Broken(at=now(), stream=self.number, gateway=gateway.id, error=error))


def output_text(response: dict[str, Any]) -> str:
    """The text of a Response object."""
    return "".join(part["text"] for item in response["output"] for part in item["content"])
