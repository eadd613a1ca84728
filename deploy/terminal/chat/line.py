"""Asking over a WebSocket that may break: the answer goes on where it stood, at whichever gateway answers."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from openai import APIError
from openai.resources.responses.responses import AsyncResponsesConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import Close

from deploy.terminal.chat.answer import Answer, refusal
from deploy.terminal.chat.closes import FINAL, described, first_close
from deploy.terminal.chat.gateways import ChatError, Gateways, understood
from deploy.terminal.chat.patience import Patience

Say = Callable[[str], None]

_OVER = object()


class Line:
    """One chat's connection, opened when it is needed, and again when it broke. `notice` is told of that.

    The first connection is there at once or not at all; once there was one, others are tried until `patience_s` have
    passed without an event, whether they cannot be opened, break again, or lead to a gateway that cannot serve now.
    `cancel_asked`: whether the answer that was asked for last was to be cancelled.
    """

    def __init__(self, gateways: Gateways, patience_s: float, notice: Say) -> None:
        self.reconnects = 0
        self._gateways = gateways
        self._patience_s = patience_s
        self._notice = notice
        self._connection: AsyncResponsesConnection | None = None
        self._connected_before = False
        self._asked: Answer | None = None
        self.cancel_asked = False
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
        self._asked, self.cancel_asked, self._cancel_wanted = answer, False, False
        patience = Patience(len(self._gateways), self._patience_s)
        others_left = len(self._gateways) - 1
        while answer.end is None:
            connection, seen = await self._connected(answer, patience), answer.starting_after
            said, refused = None, ""
            try:
                if answer.response_id is None:
                    await connection.response.create(**request)
                refused = await self._listen(connection, answer, say, final=not others_left)
            except ConnectionClosed as closed:  # what was missed comes from the log
                said = first_close(closed)
            if answer.end is not None:
                return
            if refused and answer.response_id is None:
                others_left -= 1
            if answer.starting_after > seen:
                patience.renew()
            await self._lost(said, refused, patience)

    def cancel(self) -> bool:
        """Have the answer that is being told end; its last event will say so. False if it has no name to do so by."""
        self.cancel_asked = self._cancel_wanted = True
        self._pursue_cancel()
        return self._asked is not None and self._asked.response_id is not None

    async def _listen(self, connection: AsyncResponsesConnection, answer: Answer, say: Say, *, final: bool) -> str:
        """Take events until the answer has ended or the connection is over; or until the gateway says that it cannot
        serve now, which is returned. `final`: while the response has no name, that ends the answer."""
        events = aiter(connection)
        while answer.end is None:
            with understood(self._gateways.url):
                event: Any = await anext(events, _OVER)
                if event is _OVER:
                    break
                named = answer.response_id is not None
                refused = refusal(event, named=named)
                if refused and (named or not final):
                    return refused
                text = answer.take(event)
            if text:
                say(text)
            self._pursue_cancel()
        return ""

    async def _connected(self, answer: Answer, patience: Patience) -> AsyncResponsesConnection:
        if self._connection is None:
            tried = patience if self._connected_before else Patience(len(self._gateways), 0.0)
            self._connection = await self._gateways.connect(answer.resume_query(), tried)
            if self._connected_before:
                self.reconnects += 1
                self._notice(f"goes on at {self._gateways.url}")
            self._connected_before = True
        return self._connection

    async def _lost(self, said: Close | None, refused: str, patience: Patience) -> None:
        """The connection is of no use any more, and its gateway perhaps neither. Raises ChatError where no other one
        would be of use either. `said`: what it was closed with; `refused`: what the gateway answered."""
        url = self._gateways.url
        await self.close()
        if said is not None and said.code in FINAL:
            raise ChatError(f"{url} {FINAL[said.code]} It closed with {described(said)}")
        trouble = f"{url} answers {refused}" if refused else f"the connection to {url} is lost"
        self._notice(trouble)
        if not await patience.endures():
            closed = "" if said is None else f"; it closed with {described(said)}"
            raise ChatError(
                f"{trouble}{closed}, and in {patience.limit_s:g} s nothing new came: "
                "try later, or name another gateway with --base-url"
            )
        self._gateways.next()

    def _pursue_cancel(self) -> None:
        """Once the response has a name; again, with the next event, where a gateway did not answer."""
        name = self._asked.response_id if self._asked is not None else None
        busy = self._cancelling is not None and not self._cancelling.done()
        if self._cancel_wanted and name is not None and not busy:
            self._cancelling = asyncio.create_task(self._send_cancel(name), name="cancel")

    async def _send_cancel(self, response_id: str) -> None:
        with contextlib.suppress(APIError, ChatError), understood(self._gateways.url):  # ended, or nobody answers
            await self._gateways.client.responses.cancel(response_id)
            self._cancel_wanted = False
