"""What the terminal tools let through to a terminal, and how they end."""

import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pexpect
import pytest

from deploy.terminal.chat.__main__ import main as chat
from deploy.terminal.command import INTERRUPTED_STATUS, blocking, printable, run, shortened
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


ASKS = """
import sys
from deploy.terminal.command import run
from deploy.terminal.dlq.redriving import agreed

async def main():
    return 3 if await agreed(2) else 4

sys.exit(run(main))
"""


@pytest.mark.parametrize(("key", "status"), [("\x03", INTERRUPTED_STATUS), ("\x04", 4), ("y\r", 3)])
def test_the_first_ctrl_c_ends_a_question(key: str, status: int) -> None:
    root = str(Path(__file__).parents[4])
    child = pexpect.spawn(sys.executable, ["-c", ASKS], cwd=root, encoding="utf-8", timeout=30)
    child.expect_exact("send 2 records back? [y/N] ")
    child.send(key)
    child.expect(pexpect.EOF)
    child.close()
    assert "Traceback" not in child.before and child.exitstatus == status


def test_the_first_ctrl_c_ends_the_reading_of_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    read_on = []

    def read() -> bytes:
        signal.raise_signal(signal.SIGINT)
        read_on.append(True)
        return b"hello"

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: False, buffer=SimpleNamespace(read=read)))
    assert chat(["--base-url", "http://127.0.0.1:1", "--model", "m"]) == INTERRUPTED_STATUS
    assert not read_on


def test_ctrl_c_before_a_question_is_not_forgotten() -> None:
    asked = []

    async def late() -> int:
        signal.raise_signal(signal.SIGINT)
        await blocking(lambda: asked.append(True))
        return 0

    assert run(late) == INTERRUPTED_STATUS
    assert not asked
