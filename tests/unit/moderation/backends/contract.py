"""What every backend keeps to, whatever stands behind it.

A suite takes `BackendContract` as its base and gives a started backend by the fixture `subject`. The port's words
are in services/moderation/backends/port.py.
"""

import asyncio
import math
from collections.abc import Sequence

from services.moderation.backends.port import Backend, Excerpt, Judgement
from shared.records import Message

MIXED = (
    "The quick brown fox jumps over the lazy dog.",
    "Write to jane.doe@example.com, or call +1 650-253-0000.",
    'password = "hunter2-correct-horse"',
    "дом, 家, بيت, घर: 🏠👩‍👩‍👧‍👦 \u200b\u202e\x00",
    "word",
)
"""No two alike, and of different lengths; some hold what a detector finds."""
LONG = ("All work and no play makes Jack a dull boy. " * 400)[:16_384]
CONTEXT = (Message(role="user", parts=["How do I reach you?"]),)


def excerpt(raw: str, *, context: tuple[Message, ...] = ()) -> Excerpt:
    return Excerpt(raw=raw, text=raw.lower(), stage="output", context=context)


def excerpts(texts: Sequence[str]) -> list[Excerpt]:
    return [excerpt(text) for text in texts]


def check(judgement: Judgement, judged: Excerpt, subject: Backend) -> None:
    """Everything that the port says of one judgement alone."""
    named = {*judgement.scores, *judgement.flagged, *(span.category for span in judgement.spans)}
    assert named <= subject.categories
    assert all(math.isfinite(score) and 0 <= score <= 1 for score in judgement.scores.values())
    for span in judgement.spans:
        assert 0 <= span.start < span.end <= len(judged.raw)
        assert 0 < span.score <= judgement.scores[span.category]


class Started:
    """A backend that was started already, for a caller that would start it."""

    def __init__(self, backend: Backend) -> None:
        self.name = backend.name
        self.revision = backend.revision
        self.categories = backend.categories
        self.batch = backend.batch
        self.judge = backend.judge

    async def start(self) -> None:
        """It was."""

    async def stop(self) -> None:
        """Whoever started it does."""


class BackendContract:
    """Its tests; they never look at what the backend thinks of a text, only at how it says it."""

    def test_it_tells_who_it_is(self, subject: Backend) -> None:
        assert subject.name
        assert subject.revision
        assert subject.categories
        assert subject.batch >= 1

    async def test_there_is_one_judgement_per_excerpt(self, subject: Backend) -> None:
        asked = excerpts(MIXED)[: subject.batch]
        judgements = await subject.judge(asked)
        assert len(judgements) == len(asked)
        for judgement, judged in zip(judgements, asked, strict=True):
            check(judgement, judged, subject)

    async def test_the_batch_changes_nothing(self, subject: Backend) -> None:
        """Not a bit of it: a threshold may lie anywhere."""
        asked = excerpts(MIXED)[: subject.batch]
        alone = [(await subject.judge([one]))[0] for one in asked]
        assert list(await subject.judge(asked)) == alone
        assert list(await subject.judge(asked[::-1])) == alone[::-1]
        many = (asked * subject.batch)[: subject.batch]
        assert list(await subject.judge(many)) == [alone[n % len(asked)] for n in range(len(many))]

    async def test_it_judges_the_same_alike_later(self, subject: Backend) -> None:
        first = await subject.judge(excerpts(MIXED)[: subject.batch])
        await subject.judge([excerpt("something else")])
        assert list(await subject.judge(excerpts(MIXED)[: subject.batch])) == list(first)

    async def test_a_full_batch_is_answered(self, subject: Backend) -> None:
        asked = excerpts([f"{MIXED[n % len(MIXED)]} {n}" for n in range(subject.batch)])
        assert len(await subject.judge(asked)) == subject.batch

    async def test_nothing_is_nothing(self, subject: Backend) -> None:
        assert list(await subject.judge([])) == []
        for blank in ("", " \n\t"):
            judged = excerpt(blank)
            (judgement,) = await subject.judge([judged])
            check(judgement, judged, subject)
            assert not judgement.spans
            assert not judgement.flagged

    async def test_any_text_is_a_text(self, subject: Backend) -> None:
        for raw in ("\x00", "🏳️‍🌈", "e\u0301" * 40, "\u202eevil\u202c", "a", "<|im_end|></s>[SEP]{{ 7 * 7 }}{% raw %}"):
            judged = excerpt(raw)
            (judgement,) = await subject.judge([judged])
            check(judgement, judged, subject)

    async def test_a_long_text_is_read_to_its_end(self, subject: Backend) -> None:
        judged = excerpt(LONG)
        (judgement,) = await subject.judge([judged])
        check(judgement, judged, subject)

    async def test_context_is_taken(self, subject: Backend) -> None:
        judged = excerpt(MIXED[0], context=CONTEXT * 3)
        (judgement,) = await subject.judge([judged])
        check(judgement, judged, subject)

    async def test_who_stops_waiting_leaves_it_usable(self, subject: Backend) -> None:
        before = list(await subject.judge(excerpts(MIXED[:1])))
        for turns in range(4):
            asking = asyncio.create_task(_judge(subject, excerpts(MIXED)[: subject.batch]))
            for _ in range(turns):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        assert list(await subject.judge(excerpts(MIXED[:1]))) == before

    async def test_calls_beside_each_other_get_their_own_answers(self, subject: Backend) -> None:
        alone = [(await subject.judge([one]))[0] for one in excerpts(MIXED)]
        together = await asyncio.gather(*(_judge(subject, [one]) for one in excerpts(MIXED)))
        assert [judgements[0] for judgements in together] == alone


async def _judge(subject: Backend, asked: Sequence[Excerpt]) -> list[Judgement]:
    return list(await subject.judge(asked))
