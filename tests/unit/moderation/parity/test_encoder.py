"""The default policy and its classifier: a text has one score, alone or beside others, asked about or streamed."""

import itertools
from collections.abc import AsyncIterator, Sequence
from unittest.mock import patch

import pytest

from services.moderation.backends.encoder import EncoderBackend
from services.moderation.backends.port import Backend, Excerpt
from services.moderation.judging import JudgePool, judge_texts
from services.moderation.policy import DEFAULT_POLICY, BackendSpec, parse_policy
from shared.records import ModerationWish
from shared.topics import VERDICTS
from tests.support.fakes import MemoryLog
from tests.support.owner_bench import OwnerBench, claimed, gateway_beat, requested, worker_beat
from tests.unit.moderation.parity.courses import Course, Outcome, outcome, records, until_ended, violations

SENTENCES = [
    "The kettle is on, and the bus leaves at ten.",
    "Kill the process before you start the server again.",
    "I will find you and hurt you, you worthless idiot.",
    "She was shot dead in the third chapter, which nobody had expected of a comedy.",
    "What do the tides have to do with the moon?",
    "Everyone from that country is vermin and should be gone.",
    "Lately I feel that there is no point in going on.",
    "Der Zug nach Köln fährt heute von Gleis drei.",
]
PAIRS = [" ".join(pair) for pair in itertools.permutations(SENTENCES, 2)]
LONG = " ".join(SENTENCES * 2)
SOURCE = DEFAULT_POLICY.read_text().replace("timeout_s: 10", "timeout_s: 60")
"""A busy machine is no bug."""
POLICY = parse_policy(SOURCE)
WISH = ModerationWish(model="omni-moderation-latest")


@pytest.fixture(scope="module")
async def encoder() -> AsyncIterator[EncoderBackend]:
    """One that remembers nothing: whatever it is asked, it reads."""
    with patch("services.moderation.backends.encoder.backend.REMEMBERED", 1):
        backend = EncoderBackend("encoder")
    await backend.start()
    yield backend
    await backend.stop()


async def judged(backend: EncoderBackend, texts: Sequence[str]) -> list[dict[str, float]]:
    """The scores of each text, asked about in one call."""
    excerpts = [Excerpt(raw=text, text=text, stage="output") for text in texts]
    return [dict(judgement.scores) for judgement in await backend.judge(excerpts)]


async def test_a_text_scores_the_same_alone_among_eight_and_among_thirty_two(encoder: EncoderBackend) -> None:
    texts = [*PAIRS[:39], LONG]
    together = [*await judged(encoder, texts[:8]), *await judged(encoder, texts[8:])]
    alone = [scores for text in texts for scores in await judged(encoder, [text])]
    assert together == alone
    assert max(max(scores.values()) for scores in alone) > 0.5, "it finds nothing: the test shows little"


class Loaded:
    """A backend that is loaded once, for every owner of these tests."""

    def __init__(self, backend: EncoderBackend) -> None:
        self._backend = backend

    def __call__(self, name: str, spec: BackendSpec) -> Backend:
        assert (name, spec.kind, spec.timeout_s) == ("encoder", "encoder", 60), "the default policy has changed"
        return self._backend


async def streamed(backend: EncoderBackend, texts: Sequence[str], size: int) -> list[Outcome]:
    """What became of each text as an answer, all at once, so many code points to a token."""
    bench = OwnerBench(MemoryLog(), policy=SOURCE, build=Loaded(backend))
    bench.hear(gateway_beat(), worker_beat(slots=64))
    await bench.start()
    numbers = list(range(1, len(texts) + 1))
    await bench.together(*(requested(number, moderation=WISH) for number in numbers))
    await bench.together(*(claimed(number) for number in numbers))
    journals = [
        Course(tuple(text[at : at + size] for at in range(0, len(text), size))).journal(number)
        for number, text in zip(numbers, texts, strict=True)
    ]
    for turn in itertools.zip_longest(*journals):
        await bench.together(*filter(None, turn))
    await until_ended(bench, *numbers)
    return [outcome(bench.log, number) for number in numbers]


async def test_a_streamed_text_has_the_scores_that_the_api_tells(encoder: EncoderBackend) -> None:
    """The last checkpoint of a text that one window holds sees all of it; what is told of the whole is the most that
    any checkpoint saw."""
    texts = [*SENTENCES, *PAIRS[8:12]]
    judge = JudgePool(Loaded(encoder)).judge(POLICY)
    asked = await judge_texts(judge, texts)
    for result, found in zip(asked, await streamed(encoder, texts, 5), strict=True):
        assert violations(found.log, number=found.number) == []
        said = found.told[1]
        assert said is not None
        ranges = [v for v in records(found.log, VERDICTS, found.number) if v.stage == "output" and v.category is None]
        if found.cut:
            assert max(result.scores.values()) >= min(POLICY.categories[c].thresholds.cut for c in said.flagged)
            continue
        last = max(ranges, key=lambda verdict: verdict.end)
        assert {c: last.scores[c] for c in result.scores if c in last.scores} == {
            c: score for c, score in result.scores.items() if c in last.scores
        }
        assert last.scores.keys() & result.scores.keys()
        assert all(said.scores[category] >= score for category, score in result.scores.items())


async def test_how_a_text_came_and_beside_whom_changes_nothing(encoder: EncoderBackend) -> None:
    texts = [LONG, *PAIRS[20:22]]
    by_letters = await streamed(encoder, texts, 1)
    for size in (7, len(LONG)):
        assert await streamed(encoder, texts, size) == by_letters
