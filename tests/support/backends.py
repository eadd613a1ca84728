"""A backend for tests: it scores by the words in what it is shown, as slowly as it is told."""

import asyncio
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from services.moderation.backends.port import BackendError, Excerpt, Judgement, Span

NOISE = 0.2


class WordBackend:
    """`words`: word → category → score. Without one of them a score is noise (below `noise`), which follows from each
    character of the excerpt and, with `reads_context`, of its context: two verdicts have the same scores only if the
    very same excerpts were judged.

    `places`: word → category; the backend tells where such a word stands. `turns`: for how many turns of the event loop
    each call waits before it answers; none left: it answers at once. A call with `hangs` in one of its excerpts is not
    answered while `open` is not set, one with `fails` raises BackendError.
    """

    def __init__(
        self,
        name: str,
        words: Mapping[str, Mapping[str, float]],
        *,
        places: Mapping[str, str] | None = None,
        batch: int = 8,
        turns: Iterable[int] = (),
        hangs: str | None = None,
        fails: str | None = None,
        noise: float = NOISE,
        reads_context: bool = True,
    ) -> None:
        self.name = name
        self.revision = "words-1"
        self.batch = batch
        self.open = asyncio.Event()
        self.batches: list[list[Excerpt]] = []
        self._words = words
        self._places = places or {}
        self._turns: Iterator[int] = iter(turns)
        self._hangs = hangs
        self._fails = fails
        self._noise = noise
        self._reads_context = reads_context
        scored = {category for scores in words.values() for category in scores}
        self.categories = frozenset(scored | set(self._places.values()))

    async def start(self) -> None:
        """Nothing to load."""

    async def stop(self) -> None:
        """Nothing to free."""

    async def judge(self, excerpts: Sequence[Excerpt]) -> list[Judgement]:
        assert 0 < len(excerpts) <= self.batch, f"{len(excerpts)} excerpts at once, {self.batch} were agreed"
        self.batches.append(list(excerpts))
        for _ in range(next(self._turns, 0)):
            await asyncio.sleep(0)
        if _holds(excerpts, self._hangs):
            await self.open.wait()
        if _holds(excerpts, self._fails):
            raise BackendError("it was told to fail")
        return [self.judgement(excerpt) for excerpt in excerpts]

    def judgement(self, excerpt: Excerpt) -> Judgement:
        """What the backend makes of an excerpt, whenever and beside whatever it is asked."""
        spans = tuple(self._spans(excerpt))
        scores = {
            category: max(self._found(category, excerpt), round(self._noise * self._drawn(category, excerpt), 6))
            for category in sorted(self.categories)
        }
        return Judgement(scores=scores | {span.category: span.score for span in spans}, spans=spans)

    def _found(self, category: str, excerpt: Excerpt) -> float:
        return max((found.get(category, 0.0) for word, found in self._words.items() if word in excerpt.text), default=0)

    def _spans(self, excerpt: Excerpt) -> Iterator[Span]:
        for word, category in self._places.items():
            at = excerpt.raw.find(word)
            while at >= 0:
                yield Span(category, at, at + len(word), 1.0)
                at = excerpt.raw.find(word, at + len(word))

    def _drawn(self, category: str, excerpt: Excerpt) -> float:
        """Within 0 and 1, as if at random."""
        turns = (f"{turn.role}\t{turn.text}" for turn in excerpt.context if self._reads_context)
        shown = "\n".join([self.name, category, excerpt.raw, excerpt.text, *turns])
        return int.from_bytes(hashlib.sha256(shown.encode()).digest()[:4], "big") / 2**32


def _holds(excerpts: Sequence[Excerpt], word: str | None) -> bool:
    return word is not None and any(word in excerpt.raw for excerpt in excerpts)
