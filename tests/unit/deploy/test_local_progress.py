"""The runner's pure parts: rows, the two screens, error lines."""

import io

import pytest

from deploy.local.logs import ErrorFollower, is_error
from deploy.local.progress import NO_SIGN_AFTER_S, Row, Sign, State, gateway_row, service_row
from deploy.local.screen import PlainScreen, TerminalScreen


def test_a_service_without_a_sign_of_life_points_to_its_log_only_after_a_while() -> None:
    assert service_row("history", None, 0.5, "x.log").detail == "starting"
    assert "x.log" in service_row("history", None, NO_SIGN_AFTER_S, "x.log").detail


def test_a_row_shows_what_the_heartbeat_says() -> None:
    row = service_row("inference", Sign("starting", "loading model 40 %"), 3.0, "x.log")
    assert (row.state, row.text) == (State.STARTING, "inference   loading model 40 %")
    assert service_row("inference", Sign("ready", ""), 3.0, "x.log").state is State.READY


def test_the_gateway_is_ready_only_when_clients_see_it_so() -> None:
    ready = service_row("gateway", Sign("ready", ""), 1.0, "x.log")
    assert gateway_row(ready, answers=False).state is State.STARTING
    assert gateway_row(ready, answers=True).state is State.READY


def test_a_plain_screen_tells_changes_of_state_at_once_and_percentages_now_and_then() -> None:
    out, now = io.StringIO(), [0.0]
    screen = PlainScreen(out, clock=lambda: now[0])
    for percent in range(30):
        screen.rows([Row("inference", State.STARTING, f"loading {percent} %", now[0])])
        now[0] += 0.1
    screen.rows([Row("inference", State.READY, "ready", now[0])])
    assert [line.split()[1] for line in out.getvalue().splitlines()] == ["loading", "loading", "ready"]


def test_a_terminal_screen_redraws_its_rows_and_never_wraps_them() -> None:
    out = io.StringIO()
    screen = TerminalScreen(out, columns=lambda: 40)
    screen.rows([Row("a", State.WAITING), Row("b", State.READY, "x" * 100)])
    screen.rows([Row("a", State.READY), Row("b", State.READY, "x" * 100)])
    first, _, second = out.getvalue().partition("\x1b[2A\x1b[J")
    assert "✓ a" in second
    assert max(len(line) for line in (first + second).splitlines()) < 40


def test_a_message_stays_above_the_rows_that_are_redrawn() -> None:
    out = io.StringIO()
    screen = TerminalScreen(out, columns=lambda: 80)
    screen.rows([Row("a", State.READY)])
    screen.say("news")
    row = "  ✓ a           ready\n"
    assert out.getvalue() == f"{row}\x1b[1A\x1b[Jnews\n{row}"


def test_settled_rows_are_not_erased() -> None:
    out = io.StringIO()
    screen = TerminalScreen(out, columns=lambda: 80)
    screen.rows([Row("a", State.READY)])
    screen.settle()
    screen.say("news")
    assert "\x1b" not in out.getvalue()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("2026-11-21 12:00:00 ERROR worker: no", True),
        ("error: CHATMESH_MODEL=x: there is no such file", True),
        ("shared.errors.ModelError: cannot load", True),
        ('{"level": "error", "msg": "no"}', True),
        ("2026-11-21 12:00:00 INFO errors are counted", False),
        ("", False),
    ],
)
def test_error_lines_are_told_from_others(line: str, expected: bool) -> None:
    assert is_error(line) == expected


def test_the_follower_reads_whole_lines_once_and_ignores_what_was_there_before(tmp_path) -> None:
    log = tmp_path / "service.log"
    log.write_text("ERROR of the last run\n")
    follower = ErrorFollower(log)
    with log.open("a") as out:
        out.write("ERROR one\nINFO two\nERR")
    assert follower.new_errors() == ["ERROR one"]
    with log.open("a") as out:
        out.write("OR three\n")
    assert follower.new_errors() == ["ERROR three"]
    assert follower.new_errors() == []
