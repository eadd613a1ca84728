"""`python -m deploy.suites [ARGUMENTS FOR PYTEST...]`: every suite of tests, as many at a time as there are lanes.

A suite keeps about one core busy: its services start, wait for each other and for deadlines. Two side by side fill two
cores; a third gains nothing, for threads of torch then wait for cores and spin. Each ends with its meshes, for an idle
one takes a quarter of a core. What each prints comes to the terminal whole and in the order of the table, as if one had
run after the other; it lies in build/suites too. After a failure nothing further begins.

`--only unit` takes the suites whose titles begin so. Where arguments for pytest choose tests (-k ids), a suite may have
none of them.
"""

import argparse
import codecs
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGINT
from typing import TextIO

from deploy.process import ChildProcess, Deadline

LOGS = Path("build/suites")
LANES = 2
_LOOK_EVERY_S = 0.1
_TEARDOWN_S = 60.0
"""For the fixtures of a suite that Ctrl-C ended."""
_PYTEST_NO_TESTS = 5
_SLOWEST = ("--durations=10", "--durations-min=2")  # where the minutes go
_CHOOSE = ("-k", "-m")  # options of pytest's
_INTERRUPTED = 130  # as shells have it
_THREADS = "OMP_NUM_THREADS"

KAFKA = ("--broker=kafka", "--only-broker-tests")
EMBEDDED = ("--broker=embedded",)
MODELS = ("tests/unit/inference", "tests/unit/chat")
SHARDED = ("tests/integration/test_sharded_engine.py", "tests/integration/test_sharded_worker.py")
SERVICES = ("tests/integration",)
OPERATORS = ("tests/deploy", "tests/terminal", "tests/consumers")
SECURED = ("tests/security",)
METRICS = ("tests/chaos/test_metrics.py",)  # faults, but no times under test
CLIENTS = ("tests/clients",)
FUZZ = ("tests/fuzz",)
STORES = ("tests/contract",)


@dataclass(frozen=True, slots=True)
class Suite:
    """Tests that run in one process. `paths` without what lies below `but`; `alone`: nothing may run beside them."""

    title: str
    paths: tuple[str, ...]
    options: tuple[str, ...] = ()
    but: tuple[str, ...] = ()
    alone: bool = False

    @property
    def arguments(self) -> list[str]:
        """What pytest is told."""
        return [*self.paths, *(f"--ignore={path}" for path in self.but), *self.options]


SUITES = (
    Suite("unit, models", MODELS, ("-q",)),
    Suite("unit, the rest", ("tests/unit",), ("-q",), but=MODELS),
    Suite("stores", STORES),
    Suite("embedded, services", SERVICES, EMBEDDED, but=SHARDED),
    Suite("Kafka, services", SERVICES, KAFKA, but=SHARDED),
    Suite("embedded, operators", OPERATORS, EMBEDDED),
    Suite("embedded, clients", CLIENTS, EMBEDDED),
    Suite("embedded, sharded model", SHARDED, EMBEDDED),
    Suite("embedded, fuzz", FUZZ, EMBEDDED),
    Suite("Kafka, operators", (*OPERATORS, *METRICS), KAFKA),
    Suite("Kafka, secured", SECURED),
    Suite(
        "embedded, the rest",
        ("tests",),
        EMBEDDED,
        but=("tests/unit", *SERVICES, *OPERATORS, *SECURED, *STORES, *CLIENTS, *FUZZ),
    ),
    Suite("Kafka, chaos", ("tests/chaos",), KAFKA, but=METRICS, alone=True),
)
"""What is quick to fail comes first, and what builds something that others need; then the long ones, the shortest last,
so that all lanes end together. Chaos has the times of faults and of recovery under test, so it runs alone; everything
else bears a busy machine."""


@dataclass
class Run:
    """A suite under way, or ended. `code`: its exit status, None while it runs; `took_s` is then its time."""

    suite: Suite
    process: ChildProcess
    begun_s: float
    code: int | None = None
    took_s: float = 0.0

    @property
    def empty(self) -> bool:
        """Whether no test ran."""
        return self.code == _PYTEST_NO_TESTS

    def look(self, now_s: float) -> None:
        """Notice its end."""
        if self.code is None and (code := self.process.exit_code) is not None:
            self.code, self.took_s = code, now_s - self.begun_s


def may_begin(suite: Suite, running: Sequence[Suite], lanes: int) -> bool:
    """Whether `suite` may run beside those that do."""
    if not running:
        return True
    return len(running) < lanes and not suite.alone and not any(other.alone for other in running)


@dataclass
class Lanes:
    """Runs `suites` in their order, at most `lanes` at a time; `start` begins one.

    `chosen`: only some tests are to run, so one suite may have none, but not all of them.
    """

    suites: Sequence[Suite]
    lanes: int
    start: Callable[[Suite], ChildProcess]
    chosen: bool = False
    clock: Callable[[], float] = time.monotonic
    runs: list[Run] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether a suite has ended badly. One in which no test ran has, unless tests were chosen."""
        bad = any(run.code not in (None, 0) and not (run.empty and self.chosen) for run in self.runs)
        return bad or (len(self.runs) == len(self.suites) and all(run.empty for run in self.runs))

    @property
    def over(self) -> bool:
        """Whether nothing runs and nothing will."""
        return all(run.code is not None for run in self.runs) and (self.failed or self._next() is None)

    def turn(self) -> None:
        """Notice who has ended, and begin who may."""
        for run in self.runs:
            run.look(self.clock())
        while not self.failed and (suite := self._next()) is not None:
            if not may_begin(suite, [run.suite for run in self.runs if run.code is None], self.lanes):
                return
            self.runs.append(Run(suite, self.start(suite), self.clock()))

    def _next(self) -> Suite | None:
        return self.suites[len(self.runs)] if len(self.runs) < len(self.suites) else None

    def interrupt(self) -> None:
        """End what runs as Ctrl-C does: fixtures are torn down, so nothing is left behind."""
        running = [run for run in self.runs if run.code is None]
        for run in running:
            run.process.signal(SIGINT)
        deadline = Deadline(_TEARDOWN_S)
        for run in running:
            run.process.wait(deadline.remaining_s())
            run.process.kill()
            run.look(self.clock())


class Screen:
    """Shows the suites' output one behind the other: live that of the first that has not ended."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._shown = 0
        self._log: _Following | None = None

    def show(self, runs: Sequence[Run]) -> None:
        """What has come since the last time."""
        while self._shown < len(runs):
            run = runs[self._shown]
            if self._log is None:
                self._out.write(f"\n--- {run.suite.title}: pytest {' '.join(run.suite.arguments)}\n")
                self._log = _Following(run.process.log_path)
            self._out.write(self._log.more())
            if run.code is None:
                break
            self._out.write(f"--- {run.suite.title}: {outcome(run)}\n")
            self._shown, self._log = self._shown + 1, None
        self._out.flush()


class _Following:
    """What a growing text file says, piece by piece."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def more(self) -> str:
        with self._path.open("rb") as log:
            log.seek(self._position)
            found = log.read()
        self._position += len(found)
        return self._decoder.decode(found)


def outcome(run: Run) -> str:
    """One line for people."""
    if run.code == 0:
        return minutes(run.took_s)
    if run.empty:
        return "no test ran"
    return f"FAILED (exit status {run.code}) after {minutes(run.took_s)}"


def minutes(seconds: float) -> str:
    """Like "3 min 07 s"."""
    return f"{int(seconds) // 60} min {int(seconds) % 60:02} s"


def report(suites: Sequence[Suite], runs: Sequence[Run], took_s: float, busy_s: float) -> str:
    """A table of minutes per suite. `busy_s`: processor time of all together."""
    verdicts = {0: "", _PYTEST_NO_TESTS: "  no test ran"}
    rows = [f"  {run.suite.title:<32} {run.took_s / 60:6.1f}{verdicts.get(run.code or 0, '  FAILED')}" for run in runs]
    rows += [f"  {suite.title:<32}      -  not run" for suite in suites[len(runs) :]]
    together = f"  {'together':<32} {took_s / 60:6.1f}  ({busy_s / took_s:.1f} cores busy on average)"
    return "\n".join(["", "minutes per suite", *rows, together])


def environment(given: Mapping[str, str], lanes: int, cores: int) -> dict[str, str]:
    """For one of `lanes` suites side by side: it gets its part of the cores. Threads of torch that are as many as
    the cores wait for each other by spinning, which takes those cores from the suite beside them."""
    part = max(1, cores // lanes)
    wanted = given.get(_THREADS, "")
    return {**given, _THREADS: str(min(part, int(wanted)) if wanted.isdecimal() else part)}


def starter(arguments: Sequence[str], color: bool, lanes: int) -> Callable[[Suite], ChildProcess]:
    """How a suite begins, with further arguments for pytest."""
    env = environment(os.environ, lanes, os.cpu_count() or 1)

    def start(suite: Suite) -> ChildProcess:
        log_path = LOGS / f"{suite.title.replace(', ', '-').replace(' ', '-')}.log"
        log_path.unlink(missing_ok=True)
        argv = [sys.executable, "-m", "pytest", *suite.arguments, *_SLOWEST, f"--color={'yes' if color else 'no'}"]
        argv += arguments
        process = ChildProcess(argv, log_path=log_path, env=env)
        process.start()
        return process

    return start


def main(argv: Sequence[str]) -> int:
    """0 if every suite passed, 130 after Ctrl-C, else 1."""
    parser = argparse.ArgumentParser(prog="deploy.suites", description=__doc__)
    parser.add_argument("--lanes", type=int, default=LANES, help=f"suites at a time ({LANES})")
    parser.add_argument("--only", default="", help="suites whose titles begin so")
    options, arguments = parser.parse_known_args(argv)
    suites = [suite for suite in SUITES if suite.title.startswith(options.only)]
    if not suites:
        parser.error(f"no suite's title begins with {options.only!r}: {', '.join(suite.title for suite in SUITES)}")
    start = starter(arguments, sys.stdout.isatty(), options.lanes)
    chosen = any(argument.startswith(_CHOOSE) for argument in arguments)
    lanes, screen = Lanes(suites, options.lanes, start, chosen=chosen), Screen(sys.stdout)
    begun_s, interrupted = time.monotonic(), False
    try:
        while not lanes.over:
            lanes.turn()
            screen.show(lanes.runs)
            time.sleep(_LOOK_EVERY_S)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        lanes.interrupt()
    screen.show(lanes.runs)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(report(suites, lanes.runs, time.monotonic() - begun_s, children.ru_utime + children.ru_stime))
    return _INTERRUPTED if interrupted else int(lanes.failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
