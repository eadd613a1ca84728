"""The rules that docs/events.md gives to consumers come to what our own fold comes to, whatever stands in the log."""

import asyncio
import importlib
import re
import signal
import sys
import tomllib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement

from deploy.events.release import ROOT
from shared.folds.events import EventFold
from shared.records import Accepted, Completed, Delta, Events, Failed, ResponseSpec, Screening, Usage
from shared.records.codec import encode_headers, encode_value

SAMPLE = ROOT / "examples" / "consumers" / "python"
R = "resp_1"
USAGE = Usage(input_tokens=1, output_tokens=1)
Finished = Callable[[Any, OrderedDict[str, float]], dict[str, Any] | None]


@pytest.fixture(scope="module")
def sample() -> ModuleType:
    """The Python sample."""
    sys.path.insert(0, str(SAMPLE))
    try:
        return importlib.import_module("consumer")
    finally:
        del sys.path[0]


@pytest.fixture(scope="module")
def finished(sample: ModuleType) -> Finished:
    return sample.finished  # type: ignore[no-any-return]


def accepted(epoch: int) -> Accepted:
    spec = ResponseSpec(model="m", input=[])
    return Accepted(
        response_id=R, epoch=epoch, tenant="t", spec=spec, policy="p", created_ms=0, deadline_ms=1, input_tokens=1
    )


def ended(epoch: int, text: str = "") -> Completed:
    return Completed(response_id=R, epoch=epoch, tenant="t", text=text, usage=USAGE, finished_ms=epoch)


def failed(epoch: int) -> Failed:
    return Failed(
        response_id=R, epoch=epoch, tenant="t", text="", usage=USAGE, finished_ms=epoch, code="c", message="m"
    )


def screening(epoch: int) -> Screening:
    return Screening(response_id=R, epoch=epoch, owner="o")


def delta(epoch: int) -> Delta:
    return Delta(response_id=R, epoch=epoch, start=0, end=1, text="a", policy="p", window=0)


EPOCHS = st.integers(0, 4)
ANYTHING = st.lists(st.one_of(*(EPOCHS.map(make) for make in (accepted, ended, failed, screening, delta))), max_size=12)


def folded(log: list[Events]) -> EventFold:
    fold = EventFold()
    for record in log:
        fold.apply(record)
    return fold


def message(record: Events) -> Any:
    return SimpleNamespace(headers=encode_headers(record, "moderation-1"), value=encode_value(record))


@given(ANYTHING)
def test_the_sample_prints_the_end_that_counts_and_no_other(finished: Finished, log: list[Events]) -> None:
    log = [accepted(0), *log]
    epochs: OrderedDict[str, float] = OrderedDict()
    printed = [event for record in log if (event := finished(message(record), epochs)) is not None]
    terminal = folded(log).terminal
    assert printed == ([msgspec.to_builtins(terminal)] if terminal is not None else [])


@st.composite
def fenced(draw: st.DrawFn) -> list[Events]:
    """A log as owners write it: each marks its epoch and reads up to the mark, so that it ends nothing that has ended;
    those that it replaced may still write what they decided, once or twice."""
    log: list[Events] = [accepted(1)]
    late: list[Events] = [ended(1, "early")]
    for epoch in range(2, draw(st.integers(2, 4))):
        log += draw(st.lists(st.sampled_from(late), max_size=2))
        log.append(screening(epoch))
        if folded(log).terminal is None:
            late.append(draw(st.sampled_from((ended(epoch), failed(epoch)))))
    return [*log, *draw(st.lists(st.sampled_from(late), max_size=4))]


@given(fenced())
def test_once_an_end_counts_it_is_the_one_of_the_highest_epoch(log: list[Events]) -> None:
    ends = [record for record in log if isinstance(record, Completed | Failed)]
    terminal = folded(log).terminal
    assert terminal is None or terminal == max(ends, key=lambda record: record.epoch)


class WaitingForItsBroker:
    """A consumer that has read something, and is told to end while its commit waits for a broker that is away."""

    stopped = False

    def __init__(self, *_: str, **__: object) -> None: ...

    async def start(self) -> None: ...

    async def getmany(self, timeout_ms: int) -> dict[str, list[Any]]:
        return {"partition": []}

    async def commit(self) -> None:
        signal.raise_signal(signal.SIGTERM)
        await asyncio.sleep(5)
        raise AssertionError("it was told to end")

    async def stop(self) -> None:
        WaitingForItsBroker.stopped = True
        await asyncio.Event().wait()


@pytest.fixture
def signals_as_before() -> Iterator[None]:
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.mark.usefixtures("signals_as_before")
@pytest.mark.parametrize("inherited", [signal.default_int_handler, signal.SIG_IGN])
def test_the_sample_ends_when_told_to_whatever_it_waits_for(
    sample: ModuleType, monkeypatch: pytest.MonkeyPatch, inherited: Any
) -> None:
    """Also where a script started it with &, which leaves SIGINT ignored."""
    signal.signal(signal.SIGINT, inherited)
    monkeypatch.setattr(WaitingForItsBroker, "stopped", False)
    monkeypatch.setattr(sample, "AIOKafkaConsumer", WaitingForItsBroker)
    monkeypatch.setattr(sample, "LEAVING_S", 0.01)
    sample.run()
    assert WaitingForItsBroker.stopped


def test_the_sample_reads_what_our_own_programs_read() -> None:
    """A broker may compress what nobody else does."""
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (needed,) = map(Requirement, filter(re.compile("aiokafka\\W").match, ours))
    (asked,) = map(Requirement, (SAMPLE / "requirements.txt").read_text().splitlines())
    assert (asked.name, asked.extras) == (needed.name, needed.extras)
