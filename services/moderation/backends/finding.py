"""A backend that knows places: a finder of spans behind the port, in bounded steps."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from services.moderation.backends.port import BackendError, Excerpt, Judgement, Span
from services.moderation.backends.threads import OneThread

CHUNK = 2_048
"""Code points that a finder is shown at once. The patterns of others take time that grows with the square of it."""
OVERLAP = 256
"""By how much the next chunk begins earlier: what is shorter is seen whole in one of them."""
BATCH = 32


@dataclass(frozen=True, slots=True)
class Found:
    """Something of `category` at `[start, end)` of the text that the finder was shown, as sure as `score` in [0, 1]."""

    category: str
    start: int
    end: int
    score: float


Find = Callable[[str], Iterable[Found]]
"""What there is in a text; a pure function. Called in one thread at a time."""


@dataclass(frozen=True, slots=True)
class Finder:
    """`find`, ready to be called, and what it is: `revision` tells versions of it apart."""

    find: Find
    revision: str


class FindingBackend:
    """Implements `Backend` with a finder, on the raw text: what is masked must be exactly what was said.

    Where something is found it is reported as far as the excerpt goes. What touches the excerpt's end may be longer, or
    nothing at all: the caller holds it back until a later excerpt shows more (`Finding.open`). What touches the
    beginning of an excerpt that begins inside a text is a rest of something that an earlier excerpt had whole.
    """

    def __init__(self, name: str, categories: frozenset[str], load: Callable[[], Finder]) -> None:
        """`load` imports and builds the finder; it blocks, and raises SettingsError if it never can."""
        self.name = name
        self.revision = ""
        self.categories = categories
        self.batch = BATCH
        self._load = load
        self._finder: Finder | None = None
        self._thread = OneThread(name)

    async def start(self) -> None:
        """Raises SettingsError."""
        self._finder = await self._thread.run(self._load)
        self.revision = self._finder.revision

    async def judge(self, excerpts: Sequence[Excerpt]) -> list[Judgement]:
        """Raises BackendError."""
        if self._finder is None:
            raise BackendError(f"{self.name} was not started")
        find = self._finder.find
        return await self._thread.run(lambda: [self._judgement(find, excerpt.raw) for excerpt in excerpts])

    async def stop(self) -> None:
        await self._thread.stop()

    def _judgement(self, find: Find, text: str) -> Judgement:
        try:
            spans = spans_in(find, text)
        except Exception as error:  # noqa: BLE001 - see below
            # Code of others over any text: what it says may hold the text, so only its kind is passed on.
            raise BackendError(f"{self.name} failed with {type(error).__name__}") from None
        scores: dict[str, float] = {}
        for span in spans:
            scores[span.category] = max(span.score, scores.get(span.category, 0.0))
        return Judgement(scores, spans, frozenset(scores))


def spans_in(find: Find, text: str) -> tuple[Span, ...]:
    """All that `find` finds in chunks of `text`, in order; what lies inside something surer is that, not itself."""
    found = {span for base, chunk in chunks(text) for span in _of_chunk(find, base, chunk, len(text))}
    ordered = sorted(found, key=lambda span: (span.start, -span.end, -span.score, span.category))
    return tuple(span for span in ordered if not any(_within(span, other) for other in ordered))


def chunks(text: str) -> Iterator[tuple[int, str]]:
    """`(position, chunk)`, each of at most CHUNK code points."""
    for base in range(0, max(1, len(text) - OVERLAP), CHUNK - OVERLAP):
        yield base, text[base : base + CHUNK]


def _of_chunk(find: Find, base: int, chunk: str, length: int) -> Iterator[Span]:
    """What is found, less what a neighbouring chunk sees with more around it."""
    for found in find(chunk):
        begun_before = base > 0 and found.start == 0
        goes_on_behind = base + len(chunk) < length and found.end == len(chunk) and found.start >= CHUNK - OVERLAP
        if not begun_before and not goes_on_behind:
            yield Span(found.category, base + found.start, base + found.end, found.score)


def _within(span: Span, other: Span) -> bool:
    """A phone number inside a card number, say. What begins and ends at the same places is kept under both names."""
    wider = other.start <= span.start and span.end <= other.end and other.end - other.start > span.end - span.start
    return wider and (other.score >= span.score if other.category == span.category else other.score > span.score)
