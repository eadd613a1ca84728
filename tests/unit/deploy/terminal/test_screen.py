"""What a chat shows, on a terminal and in a pipe."""

import io
import re

import pytest

from deploy.terminal.chat.answer import End, Usage
from deploy.terminal.chat.screen import Screen, describe_end

_ESCAPES = re.compile(r"\x1b\[[?0-9;]*[A-Za-z]")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_pipe_gets_the_answer_as_it_is_and_nothing_else() -> None:
    out, err = io.StringIO(), io.StringIO()
    screen = Screen(out, err)
    screen.begin_answer()
    screen.say("red: \x1b[31m")
    screen.note("aside")
    screen.say("!")
    screen.end_answer()
    screen.error("wrong")
    assert (out.getvalue(), err.getvalue()) == ("red: \x1b[31m!\n", "aside\nerror: wrong\n")


def test_on_a_terminal_a_note_among_the_answer_stands_on_its_own_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    shared = Terminal()
    screen = Screen(shared, shared)
    screen.say("begun\x1b[31m")
    screen.note("the connection is lost")
    screen.say(" and done\n")
    screen.end_answer()
    assert _ESCAPES.sub("", shared.getvalue()) == "begun\\x1b[31m\nthe connection is lost\n and done\n"


def test_what_is_waited_for_shows_until_there_is_something_to_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    shared = Terminal()
    screen = Screen(shared, shared)
    screen.begin_answer()
    assert "\x1b[?25l" in shared.getvalue()  # the spinner hides the cursor
    screen.say("x")
    assert shared.getvalue().endswith("x")
    assert "\x1b[?25h" in shared.getvalue()  # the cursor is back


@pytest.mark.parametrize(
    ("end", "reconnects", "told"),
    [
        (End("completed", usage=Usage(1200, 34, 0)), 0, "34 tokens in 1.2 s (prompt: 1,200)"),
        (
            End("completed", usage=Usage(12, 34, 8)),
            1,
            "34 tokens in 1.2 s (prompt: 12, 8 of them cached) · reconnected once",
        ),
        (End("incomplete", "content_filter"), 2, "incomplete: moderation cut it · reconnected 2 times"),
        (End("refused", "what is wrong"), 0, "refused: what is wrong"),
        (End("cancelled"), 0, "cancelled"),
    ],
)
def test_an_end_is_told_in_one_line(end: End, reconnects: int, told: str) -> None:
    assert describe_end(end, 1.23, reconnects) == told
