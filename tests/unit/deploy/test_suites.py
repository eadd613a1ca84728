"""Suites side by side: who may run beside whom, what a person sees of them, what becomes of a failure."""

import io
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.process import ChildProcess
from deploy.suites import KAFKA, SUITES, Lanes, Run, Screen, Suite, environment, report
from tests.support.mesh import ROOT

Play = Callable[..., Lanes]
"""Suites by title, each with the program that it is."""


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Play]:
    made: list[Lanes] = []

    def lanes(programs: dict[str, str], *, at_a_time: int = 2, alone: str = "", chosen: bool = False) -> Lanes:
        def start(suite: Suite) -> ChildProcess:
            argv = [sys.executable, "-c", programs[suite.title]]
            process = ChildProcess(argv, log_path=tmp_path / f"{suite.title}.log", env={})
            process.start()
            return process

        suites = [Suite(title, (title,), alone=title == alone) for title in programs]
        made.append(Lanes(suites, at_a_time, start, chosen, clock=lambda: 0.0))
        return made[-1]

    yield lanes
    for one in made:
        for run in one.runs:
            run.process.kill()


def finish(lanes: Lanes, *titles: str) -> None:
    """Wait for the end of these, and take the next turn."""
    for run in lanes.runs:
        if run.suite.title in titles:
            assert run.process.wait(20)
    lanes.turn()


def running(lanes: Lanes) -> list[str]:
    return [run.suite.title for run in lanes.runs if run.code is None]


WAITS = "import time; time.sleep(60)"


def test_as_many_run_as_there_are_lanes_and_in_order(play: Play) -> None:
    lanes = play({"a": "", "b": WAITS, "c": WAITS})
    lanes.turn()
    finish(lanes, "a")
    assert running(lanes) == ["b", "c"]
    one = play({"d": WAITS, "e": WAITS}, at_a_time=1)
    one.turn()
    assert running(one) == ["d"]


def test_what_runs_alone_waits_for_all_and_holds_all_back(play: Play) -> None:
    lanes = play({"a": "", "b": "", "chaos": WAITS, "d": WAITS}, alone="chaos")
    lanes.turn()
    assert running(lanes) == ["a", "b"]
    finish(lanes, "a", "b")
    assert running(lanes) == ["chaos"]
    lanes.turn()
    assert running(lanes) == ["chaos"]


def test_after_a_failure_nothing_begins_and_what_runs_goes_on(play: Play) -> None:
    lanes = play({"a": "raise SystemExit(3)", "b": "print('b is through')", "c": WAITS})
    lanes.turn()
    finish(lanes, "a", "b")
    assert (lanes.failed, lanes.over) == (True, True)
    assert [(run.suite.title, run.code) for run in lanes.runs] == [("a", 3), ("b", 0)]
    told = report(lanes.suites, lanes.runs, 60, 90)
    assert [line.split()[0] for line in told.splitlines() if "FAILED" in line] == ["a"]
    assert [line.split()[0] for line in told.splitlines() if "not run" in line] == ["c"]
    assert "1.0  (1.5 cores busy on average)" in told


def test_all_that_passed_is_over(play: Play) -> None:
    lanes = play({"a": "", "b": ""})
    assert not lanes.over
    lanes.turn()
    finish(lanes, "a", "b")
    assert (lanes.failed, lanes.over) == (False, True)


def test_each_is_shown_whole_and_in_order_and_the_first_one_live(play: Play) -> None:
    lanes = play({"a": "import time; print('Grüße', flush=True); time.sleep(60)", "b": "print('b is through')"})
    screen = Screen(out := io.StringIO())
    lanes.turn()
    finish(lanes, "b")
    while "Grüße\n" not in out.getvalue():
        screen.show(lanes.runs)
    assert "b is through" not in out.getvalue()
    lanes.runs[0].process.kill()
    lanes.turn()
    screen.show(lanes.runs)
    assert [line for line in out.getvalue().splitlines() if line] == [
        "--- a: pytest a",
        "Grüße",
        "--- a: FAILED (exit status -9) after 0 min 00 s",
        "--- b: pytest b",
        "b is through",
        "--- b: 0 min 00 s",
    ]


NO_TEST_RAN = "raise SystemExit(5)"


@pytest.mark.parametrize(
    ("programs", "chosen", "failed"),
    [
        ({"a": NO_TEST_RAN, "b": ""}, False, True),
        ({"a": NO_TEST_RAN, "b": ""}, True, False),
        ({"a": NO_TEST_RAN, "b": NO_TEST_RAN}, True, True),
    ],
    ids=["a suite without a test", "none of the chosen ones", "none of them at all"],
)
def test_where_no_test_ran(play: Play, programs: dict[str, str], chosen: bool, failed: bool) -> None:
    lanes = play(programs, chosen=chosen)
    lanes.turn()
    finish(lanes, "a", "b")
    screen = Screen(out := io.StringIO())
    screen.show(lanes.runs)
    assert (lanes.failed, lanes.over) == (failed, True)
    assert "--- a: no test ran" in out.getvalue()


def test_an_interrupt_ends_them_as_ctrl_c_does(play: Play) -> None:
    lanes = play({"a": "import time\ntry: print('up', flush=True); time.sleep(60)\nfinally: print('torn down')"})
    lanes.turn()
    run: Run = lanes.runs[0]
    while "up" not in run.process.log_text():
        assert run.process.running
    lanes.interrupt()
    assert "torn down" in run.process.log_text()
    assert run.code not in (None, 0)


@pytest.mark.parametrize(
    ("wanted", "lanes", "cores", "threads"),
    [("2", 2, 2, "1"), ("2", 1, 2, "2"), ("1", 2, 16, "1"), ("", 2, 16, "8"), ("4,2", 2, 8, "4"), ("2", 3, 2, "1")],
)
def test_suites_side_by_side_share_the_cores_among_their_threads(
    wanted: str, lanes: int, cores: int, threads: str
) -> None:
    given = {"HOME": "/home", "OMP_NUM_THREADS": wanted}
    assert environment(given, lanes, cores) == {"HOME": "/home", "OMP_NUM_THREADS": threads}
    assert environment({}, lanes, cores)["OMP_NUM_THREADS"] == str(max(1, cores // lanes))


def files(pattern: str) -> set[str]:
    return {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob(pattern)}


def within(suite: Suite, found: set[str]) -> set[str]:
    def below(paths: tuple[str, ...]) -> set[str]:
        return {file for file in found for path in paths if f"{file}/".startswith(f"{path}/")}

    return below(suite.paths) - below(suite.but)


def test_every_test_file_is_in_exactly_one_suite_without_kafka() -> None:
    parts = [within(suite, files("test_*.py")) for suite in SUITES if suite.options != KAFKA]
    assert sorted(file for part in parts for file in part) == sorted(files("test_*.py"))


def test_whatever_takes_a_broker_is_in_exactly_one_suite_on_kafka() -> None:
    takers = {
        file for file in files("*.py") if re.search(r"def \w+\([^)]*\bbroker: Broker\b", (ROOT / file).read_text())
    }
    takers = {file for file in takers if Path(file).name.startswith(("test_", "conftest"))}
    assert takers
    parts = [within(suite, takers) for suite in SUITES if suite.options == KAFKA]
    assert sorted(file for part in parts for file in part) == sorted(takers)
