"""What is asked, and what one answer looked like from outside. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

# Openers that the default model answers at length: the limit ends them, not the model.
_SUBJECTS = ("a lighthouse", "a lost dog", "the sea", "an old clock", "a train at night", "two brothers", "a garden")
_PLACES = ("in Lisbon", "in winter", "on Mars", "in a small village", "long ago", "after the rain")


def prompts(count: int, salt: int) -> list[str]:
    """`count` different prompts; another `salt` gives others, so that no prefix cache knows them."""
    return [
        f"Story {salt}-{number}: write a long story about {_SUBJECTS[number % len(_SUBJECTS)]} "
        f"{_PLACES[number % len(_PLACES)]}. Begin with the weather and do not stop before many paragraphs."
        for number in range(count)
    ]


@dataclass(frozen=True, slots=True)
class Sample:
    """One streamed answer; times in seconds on any one monotonic clock, but for `sent_unix_s`.

    `id` is the response's, where the server names it.
    """

    sent_s: float
    first_s: float
    last_s: float
    tokens: int
    pieces: int
    characters: int
    id: str = ""
    sent_unix_s: float = 0.0

    @property
    def first_token_ms(self) -> float:
        return (self.first_s - self.sent_s) * 1000

    @property
    def token_ms(self) -> float:
        """Mean time from one token to the next; pieces that arrive together count as what they are."""
        return (self.last_s - self.first_s) * 1000 / max(1, self.tokens - 1)


@dataclass(frozen=True, slots=True)
class Level:
    """What `streams` simultaneous streams came to; `cpu_ms` per output token, by process.

    `stages_ms`: see tests.bench.stages; of single streams only.
    """

    streams: int
    first_token_ms: float
    token_ms: float
    tokens_per_s: float
    tokens: int
    pieces_per_token: float
    characters_per_token: float
    cpu_ms: dict[str, float]
    stages_ms: dict[str, float]


def summary(
    streams: int, samples: Sequence[Sample], cpu_s: dict[str, float], stages_ms: dict[str, float] | None = None
) -> Level:
    """One level's figures: medians over its answers, and the throughput from the first request to the last token.

    Single streams follow one another, so their throughput leaves out the pauses between them.
    """
    tokens = sum(sample.tokens for sample in samples)
    if streams == 1:
        elapsed_s = sum(sample.last_s - sample.sent_s for sample in samples)
    else:
        elapsed_s = max(sample.last_s for sample in samples) - min(sample.sent_s for sample in samples)
    return Level(
        streams=streams,
        first_token_ms=median(sample.first_token_ms for sample in samples),
        token_ms=median(sample.token_ms for sample in samples),
        tokens_per_s=tokens / elapsed_s,
        tokens=tokens,
        pieces_per_token=sum(sample.pieces for sample in samples) / tokens,
        characters_per_token=sum(sample.characters for sample in samples) / tokens,
        cpu_ms={name: seconds * 1000 / tokens for name, seconds in cpu_s.items()},
        stages_ms=stages_ms or {},
    )
