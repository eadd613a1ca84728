"""Asking over a WebSocket that may break: the answer goes on where it stood, at whichever gateway answers."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from openai import APIError
from openai.resources.responses.responses import AsyncResponsesConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import Close

from deploy.terminal.chat.answer import Answer, is_unavailable
from deploy.terminal.chat.closes import FINAL, described, first_close
from deploy.terminal.chat.gateways import ChatError, Gateways
from deploy.terminal.chat.patience import Patience

Say = Callable[[str], None]


class Line:
    """One chat's connection, opened when it is needed, and again when it broke. `notice` is told of that.

    The first connection is there at once or not at all; once there was one, others are tried until `patience_s` have
    passed without an event, whether they cannot be opened or break again.
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
        patience = Patience(len(self._gateways), self._patience_s)
        others_left = len(self._gateways) - 1
        while answer.end is None:
            connection, seen = await self._connected(answer, patience), answer.starting_after
            said: Close | None = None
            try:
                if answer.response_id is None:
                    await connection.response.create(**request)
                async for event in connection:
                    if others_left and answer.response_id is None and is_unavailable(event):
                        others_left -= 1
                        break
                    self._take(event, answer, say)
                    if answer.end is not None:
                        return
            except ConnectionClosed as closed:  # what was missed comes from the log
                said = first_close(closed)
            if answer.starting_after > seen:
                patience.renew()
            await self._lost(said, patience)

    def cancel(self) -> bool:
        """Have the answer that is being told end; its last event will say so. False if it has no name to do so by."""
        self._cancel_wanted = True
        self._pursue_cancel()
        return self._asked is not None and self._asked.response_id is not None

    def _take(self, event: Any, answer: Answer, say: Say) -> None:
        if text := answer.take(event):
            say(text)
        self._pursue_cancel()

    async def _connected(self, answer: Answer, patience: Patience) -> AsyncResponsesConnection:
        if self._connection is None:
            tried = patience if self._connected_before else Patience(len(self._gateways), 0.0)
            self._connection = await self._gateways.connect(answer.resume_query(), tried)
            if self._connected_before:
                self.reconnects += 1
                self._notice(f"goes on at {self._gateways.url}")
            self._connected_before = True
        return self._connection

    async def _lost(self, said: Close | None, patience: Patience) -> None:
        """The connection is of no use any more, and its gateway perhaps neither. Raises ChatError where no other one
        would be of use either."""
        url = self._gateways.url
        await self.close()
        if said is not None and said.code in FINAL:
            raise ChatError(f"{url} {FINAL[said.code]} It closed with {described(said)}")
        self._notice(f"the connection to {url} is lost")
        if not await patience.endures():
            closed = "" if said is None else f"; it closed with {described(said)}"
            raise ChatError(
                f"the connection to {url} is lost again and again, and in {patience.limit_s:g} s nothing new came: "
                f"try later, or name another gateway with --base-url{closed}"
            )
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
