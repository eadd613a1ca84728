"""DESIGN 8.2 for log probabilities: they name tokens, so they are released as text is, or never."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.moderation.owner.alternatives import ending_in
from services.moderation.windows import Release
from shared.records import Delta, Tokens
from tests.support.fakes import MemoryLog
from tests.support.owner_bench import (
    OwnerBench,
    claimed,
    gateway_beat,
    logprob,
    requested,
    tokens,
    worker_beat,
)
from tests.support.policies import CUT_PHRASE, MASK_PHRASE

CLEAN = "It was a bright cold day in April, and the clocks were striking thirteen."


async def judged(*said: Tokens, log: MemoryLog | None = None, generation: int = 1) -> OwnerBench:
    bench = OwnerBench(log, generation=generation)
    bench.hear(gateway_beat(), worker_beat())
    await bench.start()
    if log is None:
        await bench.journal(requested(), claimed())
    await bench.journal(*said)
    return bench


def deltas(bench: OwnerBench) -> list[Delta]:
    return [event for event in bench.events() if isinstance(event, Delta)]


def shown(bench: OwnerBench) -> str:
    return "".join(entry.token for delta in deltas(bench) for entry in delta.logprobs)


async def test_each_delta_has_those_of_its_tokens_and_the_terminal_has_all() -> None:
    bench = await judged(tokens(CLEAN[:40], top=()), tokens(CLEAN[40:], 40, top=(), finish="stop"))
    for delta in deltas(bench):
        assert "".join(entry.token for entry in delta.logprobs) == delta.text
        assert all(delta.start < entry.end <= delta.end for entry in delta.logprobs)
    assert "".join(entry.token for entry in bench.events()[-1].logprobs) == CLEAN


async def test_who_does_not_ask_gets_none() -> None:
    bench = await judged(tokens(CLEAN, finish="stop"))
    assert [event.logprobs for event in bench.events()[1:]] == [[] for _ in bench.events()[1:]]


async def test_tokens_of_a_masked_piece_have_none() -> None:
    text = f"I ate a {MASK_PHRASE} today, and then another one, and so on for a while."
    bench = await judged(tokens(text, top=(), finish="stop"))
    assert "[fruit]" in bench.events()[-1].text
    assert shown(bench) == text.replace(MASK_PHRASE, "")
    assert "".join(entry.token for entry in bench.events()[-1].logprobs) == text.replace(MASK_PHRASE, "")


async def test_a_token_that_begins_in_a_masked_piece_has_none_though_its_end_is_clear() -> None:
    parts = ["eat a ", MASK_PHRASE[:5], MASK_PHRASE[5:] + " now", " and go home, it is late"]
    ends = [len("".join(parts[: n + 1])) for n in range(len(parts))]
    said = Tokens(
        response_id=requested().response_id,
        claim="claim_a",
        position=0,
        ids=[1, 2, 3, 4],
        pieces=parts,
        logprobs=[logprob(part, end) for part, end in zip(parts, ends, strict=True)],
    )
    bench = await judged(said, tokens("", 4, finish="stop"))
    assert bench.events()[-1].text == "eat a [fruit] now and go home, it is late"
    assert shown(bench) == parts[0] + parts[3]


async def test_nothing_of_what_a_cut_hides_is_shown() -> None:
    text = f"Look at that {CUT_PHRASE} over there, it is huge!"
    bench = await judged(tokens(text, top=(), finish="stop"))
    end = bench.events()[-1]
    assert end.text == shown(bench) == "Look at that "
    assert len(end.logprobs) == len(end.text)


async def test_candidates_that_the_policy_would_cut_or_mask_are_not_shown() -> None:
    start, last = CUT_PHRASE[:-1], CUT_PHRASE[-1]
    text = f"{start}x is a word that nobody knows, but it was said, and more text follows it here."
    bench = await judged(
        tokens(start, top=()),
        tokens("x", len(start), top=(last, "y", MASK_PHRASE)),
        tokens(text[len(start) + 1 :], len(start) + 1, top=(), finish="stop"),
    )
    (entry,) = [e for delta in deltas(bench) for e in delta.logprobs if e.end == len(start) + 1]
    assert bench.events()[-1].text == text
    assert [candidate.token for candidate in entry.top] == ["y"]


async def test_a_successor_repeats_none_and_forgets_none() -> None:
    first = await judged(tokens(CLEAN[:50], top=()))
    before = shown(first)
    assert before
    second = await judged(tokens(CLEAN[50:], 50, top=(), finish="stop"), log=first.log, generation=2)
    assert "".join(entry.token for entry in second.events()[-1].logprobs) == CLEAN
    assert shown(second) == CLEAN, "the log has each once, whoever wrote it"


@given(st.lists(st.integers(1, 6), min_size=1, max_size=12), st.data())
def test_each_token_is_judged_once_and_seen_with_the_release_that_ends_it(
    lengths: list[int], data: st.DataObject
) -> None:
    ends = [sum(lengths[: n + 1]) for n in range(len(lengths))]
    said = [logprob("x", end) for end in ends]
    borders = sorted({0, ends[-1], *data.draw(st.lists(st.integers(1, ends[-1])))})
    judged_so_far, seen = 0, []
    for start, end in pairwise(borders):
        judged_so_far, places = ending_in(said, judged_so_far, Release(start, end, "", 0))
        assert all(start < said[place].end <= end for place in places)
        seen += places
    assert (judged_so_far, seen) == (len(said), list(range(len(said))))


@pytest.mark.parametrize(("release", "seen"), [((0, 4, True, 4), []), ((4, 8, False, 4), [1]), ((4, 8, False, 5), [])])
def test_masked_releases_show_nothing_and_clear_ones_what_begins_in_them(
    release: tuple[int, int, bool, int], seen: list[int]
) -> None:
    start, end, masked, clear_from = release
    said = [logprob("a", 4), logprob("b", 8)]
    _, places = ending_in(said, 0, Release(start, end, "", 0, masked, clear_from))
    assert places == seen
