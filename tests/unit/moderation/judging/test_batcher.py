"""Continuous batching: one call at a time, what collects meanwhile goes together, every question gets its answer."""

import asyncio
from collections.abc import Sequence

import pytest

from services.moderation.backends.port import BackendError, Excerpt, Judgement, Span
from services.moderation.judging import Answer, Batcher, Urgency
from services.moderation.judging.batcher import HANGS_AFTER
from shared.errors import SettingsError
from tests.support.fakes import settle
from tests.support.traces import is_traced, traced

TIMEOUT_S = 0.05


def excerpt(text: str) -> Excerpt:
    return Excerpt(text, text, "output")


class Held:
    """A backend whose calls answer when the test lets them: the score of a text is its length in hundredths."""

    name, revision, categories, batch = "held", "1", frozenset({"harm"}), 3

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.starts = 0
        self.cannot_start = False
        self.raises: Exception | None = None
        self.says: list[Judgement] | None = None
        self.in_traces: list[bool] = []

    async def start(self) -> None:
        self.starts += 1
        self.in_traces.append(is_traced())
        if self.cannot_start:
            raise SettingsError("no such model")

    async def stop(self) -> None:
        self.open.set()

    async def judge(self, excerpts: Sequence[Excerpt]) -> Sequence[Judgement]:
        self.calls.append([e.raw for e in excerpts])
        self.in_traces.append(is_traced())
        await self.open.wait()
        if self.raises is not None:
            raise self.raises
        return self.says or [Judgement({"harm": len(e.raw) / 100}) for e in excerpts]


def score(answer: Answer) -> float:
    assert answer.judgement is not None, answer.report
    return answer.judgement.scores["harm"]


async def test_a_call_for_many_is_in_no_trace_of_the_first() -> None:
    backend = Held()
    with traced():
        await Batcher(backend, timeout_s=5).ask(excerpt("a"))
    assert backend.in_traces == [False, False]


async def test_what_collects_during_a_call_goes_together_in_bounded_batches_and_in_order() -> None:
    backend = Held()
    batcher = Batcher(backend, timeout_s=5)
    backend.open.clear()
    first = batcher.ask(excerpt("a"))
    await settle()
    later = [batcher.ask(excerpt("b" * n)) for n in range(2, 7)]
    await settle()
    assert backend.calls == [["a"]], "one call at a time"
    backend.open.set()
    assert [score(answer) for answer in await asyncio.gather(first, *later)] == [n / 100 for n in range(1, 7)]
    assert [len(call) for call in backend.calls] == [1, 3, 2]
    assert backend.starts == 1


async def test_questions_of_one_turn_share_the_first_call() -> None:
    backend = Held()
    batcher = Batcher(backend, timeout_s=5)
    await asyncio.gather(*(batcher.ask(excerpt("x")) for _ in range(3)))
    assert [len(call) for call in backend.calls] == [3]


async def test_a_question_that_nobody_needs_any_more_is_not_asked() -> None:
    backend = Held()
    batcher = Batcher(backend, timeout_s=5)
    backend.open.clear()
    first, dropped, wanted = (batcher.ask(excerpt(text)) for text in ("a", "bb", "ccc"))
    dropped.cancel()
    await settle()
    late = batcher.ask(excerpt("dddd"))
    late.cancel()
    backend.open.set()
    assert [score(answer) for answer in await asyncio.gather(first, wanted)] == [0.01, 0.03]
    assert backend.calls == [["a", "ccc"]]


async def test_a_late_call_is_given_up_and_the_next_one_made() -> None:
    backend = Held()
    batcher = Batcher(backend, TIMEOUT_S)
    backend.open.clear()
    answer = await batcher.ask(excerpt("a"))
    assert (answer.judgement, answer.report.status) == (None, "late")
    assert answer.report.latency_ms >= TIMEOUT_S * 900
    backend.open.set()
    assert score(await batcher.ask(excerpt("bb"))) == 0.02


async def test_a_backend_that_hangs_is_left_alone_for_a_while_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    now_s = 0.0
    backend = Held()
    batcher = Batcher(backend, TIMEOUT_S, rest_s=5.0, clock=lambda: now_s)
    backend.open.clear()
    for n in range(HANGS_AFTER):
        await batcher.ask(excerpt("a" * (n + 1)))
    asked = len(backend.calls)
    at_once = await asyncio.gather(*(batcher.ask(excerpt("b" * n)) for n in range(1, 40)))
    assert {answer.report.status for answer in at_once} == {"late"}
    assert all(answer.report.latency_ms < TIMEOUT_S * 900 for answer in at_once)
    assert len(backend.calls) == asked
    now_s = 6.0
    assert (await batcher.ask(excerpt("a"))).judgement is None
    assert len(backend.calls) == asked + 1
    assert (await batcher.ask(excerpt("a"))).judgement is None
    assert len(backend.calls) == asked + 1
    backend.open.set()
    now_s = 12.0
    assert score(await batcher.ask(excerpt("cc"))) == 0.02
    said = [record.message for record in caplog.records if "hangs" in record.message or "again" in record.message]
    assert said == [
        "backend held hangs: it is tried again every 5 s, until further notice",
        "backend held answers again",
    ]


async def test_a_backend_that_answers_with_errors_or_now_and_then_does_not_hang() -> None:
    backend = Held()
    batcher = Batcher(backend, TIMEOUT_S)
    for n in range(3 * HANGS_AFTER):
        backend.raises = BackendError("not this text") if n % 2 else None
        backend.open.clear() if n % HANGS_AFTER else backend.open.set()
        await batcher.ask(excerpt("a"))
    assert len(backend.calls) == 3 * HANGS_AFTER
    backend.raises = BackendError("none at all")
    backend.open.set()
    for _ in range(2 * HANGS_AFTER):
        assert (await batcher.ask(excerpt("a"))).report.status == "failed"
    assert len(backend.calls) == 5 * HANGS_AFTER


@pytest.mark.parametrize(
    "fault",
    [
        BackendError("the model says nothing"),
        ValueError("a mistake in the backend"),
        [],
        [Judgement({"harm": float("nan")})],
        [Judgement({"harm": 1.01})],
        [Judgement({"harm": -0.1})],
        [Judgement(spans=(Span("harm", 0, 2, 1.0),))],
        [Judgement(spans=(Span("harm", 0, 0, 1.0),))],
    ],
)
async def test_what_no_text_can_be_judged_by_is_a_failure(fault: Exception | list[Judgement]) -> None:
    backend = Held()
    batcher = Batcher(backend, timeout_s=5)
    if isinstance(fault, Exception):
        backend.raises = fault
    else:
        backend.says = fault or [Judgement(), Judgement()]
    answer = await batcher.ask(excerpt("a"))
    assert (answer.judgement, answer.report.status) == (None, "failed")
    backend.raises = backend.says = None
    assert score(await batcher.ask(excerpt("bb"))) == 0.02, "the next question is another one"


async def test_a_backend_that_cannot_start_fails_who_asks_and_is_started_again_by_the_next() -> None:
    backend = Held()
    backend.cannot_start = True
    batcher = Batcher(backend, timeout_s=5)
    with pytest.raises(SettingsError, match="no such model"):
        await batcher.start()
    assert (await batcher.ask(excerpt("a"))).report.status == "failed"
    backend.cannot_start = False
    assert score(await batcher.ask(excerpt("a"))) == 0.01
    assert backend.starts == 3


async def test_stopping_leaves_nobody_waiting() -> None:
    backend = Held()
    batcher = Batcher(backend, timeout_s=5)
    backend.open.clear()
    answers = [batcher.ask(excerpt("a")) for _ in range(5)]
    await settle()
    await batcher.stop()
    assert [answer.cancelled() for answer in answers] == [True] * 5


async def test_streams_go_first_and_nothing_else_starves() -> None:
    backend = Held()
    batcher = Batcher(backend, timeout_s=5)
    backend.open.clear()
    first = batcher.ask(excerpt("first"))
    await settle()
    waiting = [first]
    for urgency, text in ((Urgency.AGAIN, "a"), (Urgency.INPUT, "i"), (Urgency.STREAM, "s")):
        waiting += [batcher.ask(excerpt(text * n), urgency) for n in (1, 2, 3)]
    backend.open.set()
    await asyncio.gather(*waiting)
    assert [sorted(call) for call in backend.calls] == [
        ["first"],
        ["a", "i", "s"],
        ["aa", "ii", "ss"],
        ["aaa", "iii", "sss"],
    ]


@pytest.mark.parametrize("size", [1, 2])
async def test_where_batches_are_small_they_take_turns(size: int) -> None:
    backend = Held()
    backend.batch = size
    batcher = Batcher(backend, timeout_s=5)
    streams = [batcher.ask(excerpt("s")) for _ in range(12)]
    other = batcher.ask(excerpt("i"), Urgency.INPUT)
    await asyncio.gather(*streams, other)
    before = next(number for number, call in enumerate(backend.calls) if "i" in call)
    assert before <= 3, "an input waits for no more calls than there are urgencies"
