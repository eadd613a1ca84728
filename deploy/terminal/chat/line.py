"""Asking over a WebSocket that may break: the answer goes on where it stood, at whichever gateway answers."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from openai import APIError
from openai.resources.responses.responses import AsyncResponsesConnection
from websockets.exceptions import ConnectionClosed

from deploy.terminal.chat.answer import Answer, is_unavailable
from deploy.terminal.chat.gateways import Gateways

Say = Callable[[str], None]


class Line:
    """One chat's connection, opened when it is needed, and again when it broke. `notice` is told of that.

    The first connection is there at once or not at all; once there was one, others are tried for `patience_s`.
    """

    def __init__(self, gateways: Gateways, patience_s: float, notice: Say) -> None:
        self.reconnects = 0
        self._gateways = gateways
        self._patience_s = patience_s
        self._notice = notice
        self._connection: AsyncResponsesConnection | None = None
        self._connected_before = False
        self._asked: Answer | None = None
        self._cancel_wanted = False
        self._cancelling: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Hang up. What still runs is ended by the mesh once nobody has followed it for its grace."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(ConnectionClosed, OSError):
                await connection.close()

    async def ask(self, request: dict[str, Any], answer: Answer, say: Say) -> None:
        """Send the request and say the text of its answer as it comes, until `answer` has ended. Raises ChatError.

        A request whose connection breaks before the response has a name is sent again. Should the first one have been
        accepted all the same, nobody follows it, so the mesh ends it, and nothing goes on from it.
        """
        self._asked, self._cancel_wanted = answer, False
        refusals_left = len(self._gateways) - 1
        while answer.end is None:
            connection = await self._connected(answer)
            try:
                if answer.response_id is None:
                    await connection.response.create(**request)
                async for event in connection:
                    if refusals_left and answer.response_id is None and is_unavailable(event):
                        refusals_left -= 1
                        break
                    self._take(event, answer, say)
                    if answer.end is not None:
                        return
            except ConnectionClosed:
                pass  # what was missed comes from the log
            await self._lost()

    def cancel(self) -> bool:
        """Have the answer that is being told end; its last event will say so. False if it has no name to do so by."""
        self._cancel_wanted = True
        self._pursue_cancel()
        return self._asked is not None and self._asked.response_id is not None

    def _take(self, event: Any, answer: Answer, say: Say) -> None:
        if text := answer.take(event):
            say(text)
        self._pursue_cancel()

    async def _connected(self, answer: Answer) -> AsyncResponsesConnection:
        if self._connection is None:
            patience_s = self._patience_s if self._connected_before else 0.0
            self._connection = await self._gateways.connect(answer.resume_query(), patience_s)
            if self._connected_before:
                self.reconnects += 1
                self._notice(f"goes on at {self._gateways.url}")
            self._connected_before = True
        return self._connection

    async def _lost(self) -> None:
        """The connection is of no use any more, and its gateway perhaps neither."""
        self._notice(f"the connection to {self._gateways.url} is lost")
        await self.close()
        self._gateways.next()

    def _pursue_cancel(self) -> None:
        """Once the response has a name; again, with the next event, where a gateway did not answer."""
        name = self._asked.response_id if self._asked is not None else None
        busy = self._cancelling is not None and not self._cancelling.done()
        if self._cancel_wanted and name is not None and not busy:
            self._cancelling = asyncio.create_task(self._send_cancel(name), name="cancel")

    async def _send_cancel(self, response_id: str) -> None:
        with contextlib.suppress(APIError):  # it ended by itself, or this gateway does not answer
            await self._gateways.client.responses.cancel(response_id)
            self._cancel_wanted = False
