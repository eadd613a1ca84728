"""A turn, and what is told of its end."""

import io
from collections.abc import Callable
from typing import Any

import pytest

from deploy.terminal.chat.__main__ import one_shot
from deploy.terminal.chat.answer import Answer
from deploy.terminal.chat.conversation import Conversation
from deploy.terminal.chat.screen import Screen
from tests.unit.deploy.terminal.events import created, delta, ended, error


class Line:
    """Plays events of one answer."""

    reconnects = 0

    def __init__(self, *events: Any, cancel_asked: bool = False) -> None:
        self.events = events
        self.cancel_asked = cancel_asked

    async def ask(self, request: dict[str, Any], answer: Answer, say: Callable[[str], None]) -> None:
        for event in self.events:
            say(answer.take(event))

    def cancel(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        (Line(created(), delta(1, "Hi"), ended(2, text="Hi")), 0, "3 tokens in"),
        (Line(created(), ended(1, "cancelled"), cancel_asked=True), 130, "· cancelled"),
        (Line(created(), ended(1, "cancelled")), 1, "cancelled by somebody else, or because nobody followed it for"),
        (Line(error(400)), 1, "refused: what is wrong"),
    ],
)
async def test_the_exit_status_says_how_it_ended(line: Line, status: int, said: str) -> None:
    err = io.StringIO()
    conversation = Conversation(line, Screen(io.StringIO(), err), "m", None, {})  # type: ignore[arg-type]
    assert await one_shot(conversation, "hello") == status
    assert said in err.getvalue() and err.getvalue().startswith("error: ") is (status == 1)
    assert (conversation.parent == "resp_1") is ("refused" not in said)
