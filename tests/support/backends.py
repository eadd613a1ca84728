"""A backend for tests: it scores by the words in what it is shown, as slowly as it is told."""

import asyncio
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from services.moderation.backends.port import BackendError, Excerpt, Judgement

NOISE = 0.2
"""Below so high a score lies every excerpt without a word: a digest of all that the backend was shown."""


class WordBackend:
    """`words`: word → category → score. Without one of them a score is noise, which follows from each character of
    the excerpt and its context: two verdicts have the same scores only if the very same excerpts were judged.

    `turns`: for how many turns of the event loop each call waits before it answers; none left: it answers at once.
    While `open` is not set, no call is answered. `failing`: calls raise BackendError.
    """

    def __init__(
        self,
        name: str,
        words: Mapping[str, Mapping[str, float]],
        *,
        batch: int = 8,
        turns: Iterable[int] = (),
    ) -> None:
        self.name = name
        self.revision = "words-1"
        self.categories = frozenset(category for scores in words.values() for category in scores)
        self.batch = batch
        self.failing = False
        self.open = asyncio.Event()
        self.open.set()
        self.batches: list[list[Excerpt]] = []
        self.running = 0
        self._words = words
        self._turns: Iterator[int] = iter(turns)

    async def start(self) -> None:
        """Nothing to load."""

    async def stop(self) -> None:
        """Nothing to free."""

    async def judge(self, excerpts: Sequence[Excerpt]) -> list[Judgement]:
        assert 0 < len(excerpts) <= self.batch, f"{len(excerpts)} excerpts at once, {self.batch} were agreed"
        self.batches.append(list(excerpts))
        self.running += 1
        try:
            for _ in range(next(self._turns, 0)):
                await asyncio.sleep(0)
            await self.open.wait()
        finally:
            self.running -= 1
        if self.failing:
            raise BackendError("it was told to fail")
        return [Judgement(scores=self.scores(excerpt)) for excerpt in excerpts]

    def scores(self, excerpt: Excerpt) -> dict[str, float]:
        """What the backend thinks of an excerpt, whenever and beside whatever it is asked."""
        return {
            category: max(self._found(category, excerpt), self._noise(category, excerpt))
            for category in sorted(self.categories)
        }

    def _found(self, category: str, excerpt: Excerpt) -> float:
        return max(
            (scores[category] for word, scores in self._words.items() if category in scores and word in excerpt.text),
            default=0.0,
        )

    def _noise(self, category: str, excerpt: Excerpt) -> float:
        shown = [self.name, category, excerpt.raw, excerpt.text, *(f"{m.role}\t{m.text}" for m in excerpt.context)]
        digest = hashlib.sha256("\n".join(shown).encode()).digest()
        return round(NOISE * int.from_bytes(digest[:4]) / 2**32, 6)
