"""What the terminal tools let through to a terminal, and how they end."""

import pytest

from deploy.terminal.command import INTERRUPTED_STATUS, printable, run, shortened
from shared.errors import LogError


def test_nothing_steers_the_terminal_and_the_rest_is_left_as_it_is() -> None:
    harmless = "tabs\tand\nlines, ümläute, 日本, 👩\u200d💻"
    assert printable(harmless) == harmless
    assert printable("\x1b[31m\x9b\x07\r\u202e\ud800") == "\\x1b[31m\\x9b\\x07\\r\\u202e\\ud800"


def test_one_line_of_a_width() -> None:
    assert shortened("one\n two\tthree", 40) == "one two three"
    assert shortened("one two", 4) == "one…"


def test_errors_are_one_line_and_ctrl_c_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    async def fails() -> int:
        raise LogError("what to do")

    async def interrupted() -> int:
        raise KeyboardInterrupt

    assert run(fails) == 1
    assert capsys.readouterr().err == "error: what to do\n"
    assert run(interrupted) == INTERRUPTED_STATUS
    assert capsys.readouterr().err == ""
