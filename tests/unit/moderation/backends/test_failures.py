"""How each kind of backend fails, as its caller sees it: late or failed, never wrong, and usable afterwards."""

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from services.moderation.backends.finding import Finder, FindingBackend, Found
from services.moderation.backends.port import Backend, Excerpt, Judgement, Span
from services.moderation.judging import Batcher
from shared.chat import load_chat_tokenizer
from tests.unit.moderation.backends.contract import Started, excerpt
from tests.unit.moderation.backends.http_service import Reply
from tests.unit.moderation.backends.models import write_classifier
from tests.unit.moderation.backends.test_guard import scripted, verdicts
from tests.unit.moderation.backends.test_guard import spec as guard_spec
from tests.unit.moderation.backends.test_guard import started as started_guard
from tests.unit.moderation.backends.test_hugging_face import LABELS
from tests.unit.moderation.backends.test_hugging_face import spec as model_spec
from tests.unit.moderation.backends.test_hugging_face import started as started_model
from tests.unit.moderation.backends.test_upstream import asking, moderations

LATE_S = 0.2


@dataclass
class Fault:
    """What happens inside of a backend; None: nothing."""

    kind: str | None = None
    healed: threading.Event = None  # type: ignore[assignment]

    def strike(self) -> None:
        if self.kind == "slow":
            self.healed.wait(30)
        elif self.kind == "raises":
            raise RuntimeError("broken on purpose")


@asynccontextmanager
async def finding(fault: Fault, _: Any) -> AsyncIterator[Backend]:
    def find(text: str) -> Iterator[Found]:
        fault.strike()
        yield Found("a", 0, len(text), 1.0)

    backend = FindingBackend("finder", frozenset({"a"}), lambda: Finder(find, "1"))
    await backend.start()
    yield backend
    await backend.stop()


@asynccontextmanager
async def classifying(fault: Fault, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Backend]:
    folder = write_classifier(tmp_path_factory.mktemp("failing"), LABELS, "multi_label_classification")
    backend = await started_model(model_spec(folder))
    model = backend._model
    assert model is not None
    forward = model._forward

    def failing(rows: Any, length: int | None) -> list[list[float]]:
        fault.strike()
        return forward(rows, length)

    model._forward = failing  # type: ignore[method-assign]
    yield backend
    await backend.stop()


@asynccontextmanager
async def guarding(fault: Fault, _: Any) -> AsyncIterator[Backend]:
    tokenizer = load_chat_tokenizer("")
    endless, good = tokenizer.encode_text("word")[0], verdicts(tokenizer)

    def script(prompt_ids: tuple[int, ...]) -> Callable[[int], int]:
        if fault.kind == "raises":
            raise RuntimeError("broken on purpose")
        return (lambda _: endless) if fault.kind == "slow" else good(prompt_ids)

    def answer(prompt_ids: tuple[int, ...]) -> Callable[[int], int]:
        return lambda n: script(prompt_ids)(n)

    backend = await started_guard(scripted(tokenizer, answer), tokenizer, guard_spec(max_tokens=1_024))
    yield backend
    await backend.stop()


@asynccontextmanager
async def upstream(fault: Fault, _: Any) -> AsyncIterator[Backend]:
    faults = {"slow": Reply(after_s=30), "raises": Reply(500, headers={"retry-after-ms": "1"})}
    async with asking(lambda request: faults.get(fault.kind or "") or moderations(request)) as (backend, _service):
        yield backend


KINDS = {"finder": finding, "text-classification": classifying, "guard": guarding, "upstream": upstream}


@pytest.mark.parametrize("kind", KINDS)
async def test_it_fails_and_goes_on(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    fault = Fault(healed=threading.Event())
    asked = excerpt("the quick brown fox")
    async with KINDS[kind](fault, tmp_path_factory) as backend:
        before = await Batcher(Started(backend), 30).ask(asked)
        assert before.report.status == "ok"
        for struck, status in (("raises", "failed"), ("slow", "late"), ("raises", "failed"), ("slow", "late")):
            fault.kind = struck
            answer = await Batcher(Started(backend), LATE_S).ask(asked)
            assert (answer.judgement, answer.report.status) == (None, status), struck
            fault.kind = None
            fault.healed.set()
            after = await Batcher(Started(backend), 30).ask(asked)
            assert after.report.status == "ok"
            assert after.judgement == before.judgement
            fault.healed.clear()


class Wrong:
    """A backend whose answers are none."""

    name = "wrong"
    revision = "1"
    categories = frozenset({"a"})
    batch = 4

    def __init__(self, answer: Callable[[list[Excerpt]], Any]) -> None:
        self._answer = answer

    async def start(self) -> None: ...

    async def judge(self, excerpts: Any) -> Any:
        return self._answer(excerpts)

    async def stop(self) -> None: ...


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: [],
        lambda excerpts: [Judgement()] * (len(excerpts) + 1),
        lambda _: None,
        lambda _: [None],
        lambda _: [Judgement({"a": float("nan")})],
        lambda _: [Judgement({"a": 1.5})],
        lambda _: [Judgement({"a": -0.1})],
        lambda _: [Judgement({"a": 0.5}, (Span("a", 0, 99, 0.5),))],
        lambda _: [Judgement({"a": 0.5}, (Span("a", 2, 2, 0.5),))],
        lambda _: [Judgement({"a": 0.5}, (Span("a", 0, 1, float("inf")),))],
    ],
)
async def test_an_answer_of_the_wrong_shape_is_a_failure(answer: Callable[[list[Excerpt]], Any]) -> None:
    told = await Batcher(Wrong(answer), 1).ask(excerpt("text"))
    assert (told.judgement, told.report.status) == (None, "failed")
