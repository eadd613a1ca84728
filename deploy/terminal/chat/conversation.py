"""The chat itself: turns that go on from each other, and what the person may ask of it beside."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from deploy.terminal.chat.answer import Answer, End, request
from deploy.terminal.chat.gateways import ChatError
from deploy.terminal.chat.line import Line
from deploy.terminal.chat.screen import Screen, describe_end

HELP = """\
/new    begin a new conversation
/help   this
/quit   end (Ctrl-D, or Ctrl-C at the prompt)

Enter sends; Alt-Enter begins another line; pasted text keeps its lines.
Ctrl-C during an answer cancels it; once more leaves it to itself."""

ABANDONED = "cancelled by somebody else, or because nobody followed it for CHATMESH_FOREGROUND_GRACE_S"


class Conversation:
    """Turns with one model, each going on from the one before by `previous_response_id`.

    Not by `conversation`: a request that is sent again because its connection broke must not stand there twice.
    """

    def __init__(self, line: Line, screen: Screen, model: str, parent: str | None, options: dict[str, Any]) -> None:
        self.parent = parent
        self._line = line
        self._screen = screen
        self._model = model
        self._options = options

    async def turn(self, text: str) -> End:
        """One question and its answer, which Ctrl-C cancels. Raises ChatError, and KeyboardInterrupt where that did
        not help, or before the answer has begun."""
        answer, begun_s, reconnects = Answer(), time.monotonic(), self._line.reconnects
        asked = request(self._model, text, self.parent, self._options)
        self._screen.begin_answer()
        try:
            await _interruptibly(self._line.ask(asked, answer, self._screen.say), self._line.cancel)
        finally:
            self._screen.end_answer()
        end = answer.end
        assert end is not None, "ask returns at the end"
        if end.outcome == "cancelled" and not self._line.cancel_asked:
            end = End("abandoned", ABANDONED, end.usage)
        if end.can_be_continued:
            self.parent = answer.response_id
        told = describe_end(end, time.monotonic() - begun_s, self._line.reconnects - reconnects)
        (self._screen.note if end.is_well else self._screen.error)(told)
        return end

    async def converse(self, read: Callable[[], Awaitable[str]]) -> None:
        """Turn after turn, until the person ends it. What goes wrong in one ends that turn alone."""
        while True:
            try:
                text = await read()
            except (EOFError, KeyboardInterrupt):
                return
            if text == "/quit":
                return
            if text.startswith("/"):
                self._obey(text)
            elif text:
                await self._turn_or_leave(text)

    def _obey(self, command: str) -> None:
        if command == "/new":
            self.parent = None
            self._screen.note("a new conversation")
        elif command == "/help":
            self._screen.note(HELP)
        else:
            self._screen.note(f"there is no {command.split(maxsplit=1)[0]}; /help says what there is")

    async def _turn_or_leave(self, text: str) -> None:
        try:
            await self.turn(text)
        except KeyboardInterrupt:
            self._screen.note("left; nothing goes on from this answer")
            await self._line.close()
        except ChatError as error:
            self._screen.error(str(error))
            await self._line.close()  # what else comes is of the answer that went wrong


async def _interruptibly(work: Awaitable[None], interrupt: Callable[[], bool]) -> None:
    """Await `work`. Ctrl-C calls `interrupt`; where that cannot help, or did not, it is a KeyboardInterrupt."""
    task, tries_left = asyncio.ensure_future(work), 1

    def press() -> None:
        nonlocal tries_left
        tries_left -= 1
        if tries_left < 0 or not interrupt():
            task.cancel()

    with _handled(press):
        try:
            await task
        except asyncio.CancelledError:
            if tries_left < 1 and task.cancelled():
                raise KeyboardInterrupt from None
            raise


@contextlib.contextmanager
def _handled(press: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, press)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
