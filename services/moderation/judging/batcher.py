"""One backend, asked by everybody (continuous batching).

While a call is under way questions collect; the next call takes as many as the backend likes at once. What waits is
bounded by who asks: a response asks about its checkpoints, whose text its fold holds anyway.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

import msgspec

from services.moderation.backends.port import Backend, BackendError, Excerpt, Judgement
from services.moderation.meter import ModerationMeter
from shared.errors import SettingsError
from shared.records import BackendReport
from shared.telemetry import apart

log = logging.getLogger(__name__)

_Status = Literal["ok", "failed", "late"]


class Urgency(Enum):
    """Who waits for an answer, the most urgent first. A long prompt, and a long text whose owner died, are many
    questions at once; they may not hold up the streams that run."""

    STREAM = "somebody reads the text that waits"
    INPUT = "somebody waits to be accepted, or asks about a text"
    AGAIN = "the text is public: an owner that took it over judges it again"


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What became of a question; `judgement` None: the backend failed or was late, as the report says."""

    judgement: Judgement | None
    report: BackendReport


@dataclass(slots=True, eq=False)
class _Question:
    excerpt: Excerpt
    answer: "asyncio.Future[Answer]"
    asked_s: float = field(default_factory=time.perf_counter)


HANGS_AFTER = 3
"""So many batches in a row without a single answer in time, however the texts were asked about: the backend hangs."""

REST_S = 5.0
"""How long a backend that hangs is left alone; then one batch tries it again."""


class Batcher:
    """Asks `backend`, one call at a time; only what was in a call that failed is asked about again, each text in a call
    of its own, together.

    `timeout_s` is how long a call may take. To wait behind other calls is no lateness: an owner that takes a partition
    over has whole texts judged again, and none of them may fail because they are many. While the backend hangs, whoever
    asks is told so at once: else more and more would wait for one timeout after the other. One that answers, be it with
    an error, does not hang: what is wrong may be the text.
    """

    def __init__(
        self,
        backend: Backend,
        timeout_s: float,
        rest_s: float = REST_S,
        clock: Callable[[], float] = time.monotonic,
        meter: ModerationMeter | None = None,
    ) -> None:
        self._backend = backend
        self._meter = meter or ModerationMeter()
        self._meter.knows_backend(backend.name)
        self._timeout_s = timeout_s
        self._rest_s = rest_s
        self._clock = clock
        self._late_in_a_row = 0
        self._rests_until_s = -math.inf
        self._waiting: dict[Urgency, deque[_Question]] = {urgency: deque() for urgency in Urgency}
        self._turns = deque(self._waiting.values())
        self._asking: asyncio.Task[None] | None = None
        self._starting: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return self._backend.name

    @property
    def categories(self) -> frozenset[str]:
        return self._backend.categories

    async def start(self) -> None:
        """Have the backend load, once however often it is asked for. Raises SettingsError."""
        if self._starting is None:
            name = f"start of backend {self.name}"
            self._starting = asyncio.create_task(self._backend.start(), name=name, context=apart())
        starting = self._starting
        try:
            # Whoever gives up waiting leaves the others theirs.
            await asyncio.shield(starting)
        except Exception:
            if self._starting is starting:
                self._starting = None  # whoever asks next tries again
            raise

    async def stop(self) -> None:
        """Free the backend. Who still waits for an answer is cancelled."""
        tasks = [task for task in (self._asking, self._starting) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for waiting in self._waiting.values():
            for question in waiting:
                question.answer.cancel()
            waiting.clear()
        await self._backend.stop()

    def ask(self, excerpt: Excerpt, urgency: Urgency = Urgency.STREAM) -> "asyncio.Future[Answer]":
        """The answer, which always comes, unless the batcher is stopped. Cancel it if nobody needs it any more."""
        question = _Question(excerpt, asyncio.get_running_loop().create_future())
        self._waiting[urgency].append(question)
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask_all(), name=f"backend {self.name}", context=apart())
        return question.answer

    async def _ask_all(self) -> None:
        try:
            # What is asked in this very turn of the event loop, by other responses of the same batch, comes along.
            await asyncio.sleep(0)
            while batch := self._next_batch():
                if self._clock() < self._rests_until_s:
                    self._answer(batch, "late", [None] * len(batch))
                else:
                    self._note(await self._settle(batch))
        finally:
            self._asking = None

    def _note(self, any_in_time: bool) -> None:
        hung = self._late_in_a_row >= HANGS_AFTER
        self._late_in_a_row = 0 if any_in_time else self._late_in_a_row + 1
        if self._late_in_a_row >= HANGS_AFTER:
            self._rests_until_s = self._clock() + self._rest_s
            if not hung:
                log.error(
                    "backend %s hangs: it is tried again every %g s, until further notice", self.name, self._rest_s
                )
        elif hung:
            log.warning("backend %s answers again", self.name)

    def _next_batch(self) -> list[_Question]:
        """One question of each urgency, in turns where a batch is too small for that, then the most urgent."""
        self._turns.rotate()
        batch: list[_Question] = []
        for waiting in self._turns:
            batch += _take(waiting, min(1, self._backend.batch - len(batch)))
        for waiting in self._waiting.values():
            batch += _take(waiting, self._backend.batch - len(batch))
        return batch

    async def _settle(self, batch: Sequence[_Question]) -> bool:
        """Answer the questions. Returns whether the backend answered any of them in time, or nobody waited for it."""
        began_s = time.perf_counter()
        status, judgements = await self._judged(batch)
        self._meter.backend_called(self.name, status, time.perf_counter() - began_s)
        if status != "ok" and len(batch) > 1:
            # One text that it cannot judge, or not in time, is no other one's fault. All at once: one by one they could
            # hold up everybody for as many timeouts.
            left = [question for question in batch if not question.answer.done()]
            return not left or any(await asyncio.gather(*(self._settle([question]) for question in left)))
        self._answer(batch, status, judgements)
        return status != "late"

    def _answer(self, batch: Sequence[_Question], status: _Status, judgements: Sequence[Judgement | None]) -> None:
        for question, judgement in zip(batch, judgements, strict=True):
            if not question.answer.done():
                question.answer.set_result(Answer(judgement, self._report(question, status)))

    async def _judged(self, batch: Sequence[_Question]) -> tuple[_Status, Sequence[Judgement | None]]:
        nothing = [None] * len(batch)
        try:
            return "ok", await self._call([question.excerpt for question in batch])
        except TimeoutError:
            log.warning("backend %s gave no answer within %g s", self.name, self._timeout_s)
            return "late", nothing
        except (BackendError, SettingsError) as error:
            log.warning("backend %s failed: %s", self.name, error)
            return "failed", nothing
        except asyncio.CancelledError:
            for question in batch:
                question.answer.cancel()
            raise
        except Exception:
            # A fault of the backend's own is its failure: what the policy says of that is the safe thing to do.
            log.exception("backend %s failed in a way that it should not", self.name)
            return "failed", nothing

    async def _call(self, excerpts: list[Excerpt]) -> Sequence[Judgement]:
        await self.start()
        async with asyncio.timeout(self._timeout_s):
            judgements = await self._backend.judge(excerpts)
        if len(judgements) != len(excerpts):
            raise BackendError(f"it has {len(judgements)} answers to {len(excerpts)} questions")
        for judgement, excerpt in zip(judgements, excerpts, strict=True):
            _check(judgement, len(excerpt.raw))
        return judgements

    def _report(self, question: _Question, status: _Status) -> BackendReport:
        latency_ms = round((time.perf_counter() - question.asked_s) * 1000, 3)
        return BackendReport(name=self.name, revision=self._backend.revision, status=status, latency_ms=latency_ms)


def _take(waiting: deque[_Question], count: int) -> list[_Question]:
    """At most so many whose answer somebody needs still."""
    taken: list[_Question] = []
    while waiting and len(taken) < count:
        question = waiting.popleft()
        if not question.answer.done():
            taken.append(question)
    return taken


def _check(judgement: Judgement, length: int) -> None:
    """Raises BackendError for what no text can be judged by."""
    scores = [*judgement.scores.items(), *((span.category, span.score) for span in judgement.spans)]
    for category, score in scores:
        if not (math.isfinite(score) and 0 <= score <= 1):
            raise BackendError(f"its score for {category} is {score}, not within 0 and 1")
    for span in judgement.spans:
        if not 0 <= span.start < span.end <= length:
            raise BackendError(f"it found {span.category} at [{span.start}, {span.end}) of {length} code points")
