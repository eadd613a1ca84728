"""What the terminal tools let through to a terminal, and how they end."""

import shlex
import signal
import subprocess
import sys
from types import SimpleNamespace

import pexpect
import pytest

from deploy.terminal.chat.__main__ import main as chat
from deploy.terminal.command import (
    BROKEN_PIPE_STATUS,
    INTERRUPTED_STATUS,
    blocking,
    clock_time,
    printable,
    run,
    shortened,
)
from shared.errors import LogError
from tests.support.mesh import ROOT


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


PRINTS = """
import sys
from deploy.terminal.command import run

async def main():
    print("something")
    return 0

sys.exit(run(main))
"""


@pytest.mark.parametrize(
    ("redirection", "status", "said"),
    [
        ("| true", BROKEN_PIPE_STATUS, ""),
        ("> /dev/full", 1, "error: [Errno 28] No space left on device\n"),
        (">&-", 1, "error: standard output is closed\n"),
        ("<&- > /dev/null", 0, ""),
    ],
)
def test_what_cannot_be_printed_is_one_line_at_the_most(redirection: str, status: int, said: str) -> None:
    program = f"{shlex.quote(sys.executable)} -c {shlex.quote(PRINTS)}"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; (sleep 0.2; exec {program}) {redirection}"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (status, "", said)


def test_a_time_that_is_none_is_a_number() -> None:
    assert clock_time(1_795_293_743_000) == "2026-11-21 20:42:23Z"
    assert clock_time(10**18) == f"{10**18} ms"


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
    child = pexpect.spawn(sys.executable, ["-c", ASKS], cwd=str(ROOT), encoding="utf-8", timeout=30)
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


def test_a_pipe_that_is_closed_holds_nothing_to_ask(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert chat(["--base-url", "http://127.0.0.1:1", "--model", "m"]) == 1
    assert capsys.readouterr().err == "error: there is nothing to ask: standard input is closed\n"


@pytest.mark.parametrize("patience", ["nan", "inf", "-1", "soon"])
def test_a_patience_that_is_none_is_a_usage_error(patience: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        chat(["--patience", patience])
    assert "is no number of seconds above 0" in capsys.readouterr().err


def test_ctrl_c_before_a_question_is_not_forgotten() -> None:
    asked = []

    async def late() -> int:
        signal.raise_signal(signal.SIGINT)
        await blocking(lambda: asked.append(True))
        return 0

    assert run(late) == INTERRUPTED_STATUS
    assert not asked
