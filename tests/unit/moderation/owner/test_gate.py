"""No event passes before the verdicts on it are acknowledged, and none overtakes another."""

import asyncio

from services.moderation.owner.gate import BEFORE_ANY_TEXT, Gate, Trace
from shared.errors import AppendError
from shared.log import Appended
from shared.records import Deleted, Events
from tests.support.fakes import settle
from tests.support.owner_bench import response_id

Append = asyncio.Future[Appended]
DONE = Appended(3, 7, 1)


class Log:
    """What was published, by epoch; each append is acknowledged when the test says so."""

    def __init__(self, judged_to: int = BEFORE_ANY_TEXT) -> None:
        self.published: list[int] = []
        self.appends: list[Append] = []
        self.open = True
        self.gate = Gate(self.publish, lambda: self.open, judged_to)

    def publish(self, event: Events, trace: Trace) -> Append:
        self.published.append(event.epoch)
        self.appends.append(future())
        return self.appends[-1]

    def send(self, number: int, judged_to: int) -> Append:
        return self.gate.pass_through(Deleted(response_id=response_id(1), epoch=number, tenant="t"), judged_to)


def future() -> Append:
    return asyncio.get_running_loop().create_future()


async def test_an_event_passes_at_once_where_its_text_is_judged_already() -> None:
    log = Log(judged_to=64)
    append = log.send(1, 64)
    assert (log.published, log.appends) == ([1], [append])


async def test_an_event_waits_for_its_verdict_and_the_next_for_both() -> None:
    log, first, second = Log(), future(), future()
    log.gate.judged(0, first)
    log.gate.judged(64, second)
    waiting = [log.send(1, 0), log.send(2, 30), log.send(3, 30)]
    second.set_result(DONE)
    await settle()
    assert log.published == [], "a verdict before it is not acknowledged yet"
    first.set_result(DONE)
    await settle()
    assert log.published == [1, 2, 3]
    assert not any(append.done() for append in waiting)
    for append in log.appends:
        append.set_result(DONE)
    await settle()
    assert [append.result() for append in waiting] == [DONE] * 3


async def test_what_is_judged_waits_behind_what_is_not() -> None:
    log, verdict = Log(judged_to=10), future()
    log.gate.judged(64, verdict)
    log.send(1, 20)
    log.send(2, 5)
    assert log.published == []
    verdict.set_result(DONE)
    await settle()
    assert log.published == [1, 2]


async def test_where_a_verdict_or_any_other_append_is_lost_nothing_passes() -> None:
    log, verdict = Log(), future()
    log.gate.judged(0, verdict)
    log.send(1, 0)
    verdict.set_exception(AppendError("lost"))
    await settle()
    assert log.published == []
    assert isinstance(verdict.exception(), AppendError)

    other, late = Log(), future()
    other.gate.judged(0, late)
    other.send(1, 0)
    other.open = False
    late.set_result(DONE)
    await settle()
    assert other.published == []


async def test_a_failed_append_never_comes_true() -> None:
    log, verdict = Log(), future()
    log.gate.judged(0, verdict)
    waiting = log.send(1, 0)
    verdict.set_result(DONE)
    await settle()
    log.appends[0].set_exception(AppendError("lost"))
    await settle()
    assert not waiting.done()
    assert isinstance(log.appends[0].exception(), AppendError)


async def test_nothing_passes_a_gate_that_is_shut() -> None:
    log, verdict = Log(), future()
    log.gate.judged(0, verdict)
    log.send(1, 0)
    log.gate.shut()
    verdict.set_result(DONE)
    await settle()
    assert log.published == []
