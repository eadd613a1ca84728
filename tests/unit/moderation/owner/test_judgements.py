"""Backends in the owner: what waits for them, what does not, and what becomes of an answer that nobody waits for."""

from collections.abc import Mapping
from typing import Any

import pytest

from services.moderation.policy import parse_policy
from shared.folds import EventFold
from shared.records import (
    Accepted,
    Cancel,
    Cancelled,
    Completed,
    Cut,
    Delta,
    Failed,
    Incomplete,
    ModerationWish,
    Rejected,
    Verdict,
)
from shared.topics import EVENTS, JOURNAL, REPLIES, VERDICTS
from tests.support.backends import WordBackend
from tests.support.fakes import START_MS, MemoryLog, settle
from tests.support.owner_bench import (
    PARTITION,
    OwnerBench,
    claimed,
    gateway_beat,
    requested,
    response_id,
    tokens,
    worker_beat,
)

R = response_id(1)
WORDS: Mapping[str, Mapping[str, float]] = {"qualm": {"violence": 0.95}, "grumble": {"violence": 0.6}}
HANG, FAIL = "molasses", "gremlin"
POLICY = """
version: judged-1
streaming: {stride: 4, checkpoint: 8, hold_back: 24, lookback: 64}
backends:
  words: {kind: encoder, timeout_s: 30, on_failure: closed}
categories:
  violence: {input: refuse, output: cut, thresholds: {flag: 0.5, cut: 0.9}}
"""
CALM = "It was a calm day in April. All clocks struck nine. "


async def started(
    log: MemoryLog | None = None, *, policy: str = POLICY, fails: str = FAIL, **options: Any
) -> tuple[OwnerBench, WordBackend]:
    backend = WordBackend("words", WORDS, hangs=HANG, fails=fails, noise=0.0)
    bench = OwnerBench(log, policy=policy, build=lambda *_: backend, **options)
    bench.hear(gateway_beat(), worker_beat(claims=["claim_a"], steps=1))
    await bench.start()
    return bench, backend


async def successor(bench: OwnerBench, **options: Any) -> tuple[OwnerBench, WordBackend]:
    return await started(bench.log, service_id="moderation_2", generation=bench.generation + 1, **options)


async def answered(bench: OwnerBench, backend: WordBackend) -> None:
    """What hung is answered, and acted on."""
    backend.open.set()
    await bench.pump()


def public(bench: OwnerBench, number: int = 1) -> EventFold:
    fold = EventFold()
    for event in bench.events(number):
        fold.apply(event)
    return fold


def verdicts(bench: OwnerBench, stage: str) -> list[Verdict]:
    return [verdict for verdict in bench.log.of(VERDICTS, Verdict) if verdict.stage == stage]


def replies(bench: OwnerBench) -> list[Rejected]:
    return bench.log.of(REPLIES, Rejected)


# -- input ---------------------------------------------------------------------------------------------------------


async def test_nothing_is_public_or_dispatched_before_the_input_is_judged() -> None:
    bench, backend = await started()
    await bench.journal(requested(text=HANG))
    assert (bench.events(), bench.jobs, bench.owner.judging) == ([], [], 1)
    await answered(bench, backend)
    assert (bench.kinds(), len(bench.jobs), bench.owner.judging) == (["Accepted"], 1, 0)
    (verdict,) = verdicts(bench, "input")
    assert (verdict.action, [(b.name, b.status) for b in verdict.backends]) == ("pass", [("words", "ok")])


async def test_an_input_is_refused_by_its_score_and_flagged_below() -> None:
    bench, _ = await started()
    await bench.journal(requested(1, "a qualm"), requested(2, "a grumble"))
    assert [(reply.status, reply.correlation_id) for reply in replies(bench)] == [(400, R)]
    assert bench.kinds() == ["Accepted"]
    refused, flagged = verdicts(bench, "input")
    assert (refused.action, refused.category, refused.scores) == ("refuse", "violence", {"violence": 0.95})
    assert (flagged.action, flagged.category, flagged.scores) == ("flag", "violence", {"violence": 0.6})


async def test_a_request_is_told_what_it_asks_for_and_may_ask_for_more() -> None:
    bench, _ = await started()
    await bench.journal(
        requested(1, "a grumble", moderation=ModerationWish(model="m")),
        requested(2, "a grumble", moderation=ModerationWish(model="m", input="block")),
        claimed(),
        tokens("I grumble too.", finish="stop"),
    )
    assert [reply.correlation_id for reply in replies(bench)] == [response_id(2)]
    accepted, terminal = public(bench).accepted, public(bench).terminal
    assert accepted is not None and accepted.moderation is not None
    assert accepted.moderation.scores["violence"] == 0.6
    assert (accepted.moderation.flagged, accepted.moderation.sources["violence"]) == (["violence"], "model")
    assert accepted.moderation.sources["hate"] == "none"
    assert terminal is not None and terminal.moderation == accepted.moderation


@pytest.mark.parametrize("how", ["cancel", "deadline"])
async def test_an_end_that_comes_while_the_input_is_judged_waits_for_it(how: str) -> None:
    """Another owner may have accepted it before: it is accepted, if it may be, and then ended."""
    bench, backend = await started()
    await bench.journal(requested(text=HANG))
    if how == "cancel":
        await bench.journal(Cancel(response_id=R))
    else:
        await bench.advance(600_400)
        assert [cut.reason for cut in bench.log.of(JOURNAL, Cut)] == ["deadline"], "the watch goes on meanwhile"
    assert bench.events() == []
    await answered(bench, backend)
    assert bench.kinds() == ["Accepted", "Cancelled" if how == "cancel" else "Failed"]
    assert bench.jobs == []


async def test_an_input_that_a_closed_backend_cannot_judge_is_503_once_the_journal_says_so() -> None:
    bench, _ = await started()
    bench.log.append(JOURNAL, requested(text=FAIL))
    await bench.owner.on_records(bench.log.read(JOURNAL, PARTITION))
    await settle()
    await bench.owner.on_judgements()
    assert replies(bench) == [], "another owner's backend may be there"
    other, _ = await successor(bench)
    (reply,) = replies(other)
    assert (reply.status, reply.code, reply.error_type) == (503, "moderation_unavailable", "server_error")
    assert [kind for kind in other.kinds() if kind != "Screening"] == []
    assert [(v.action, v.category, v.backends[0].status) for v in verdicts(bench, "input")] == [
        ("refuse", None, "failed")
    ]


async def test_an_input_that_nobody_can_judge_any_more_is_accepted_if_it_has_ended() -> None:
    bench, _ = await started()
    await bench.together(requested(text=FAIL), Cancel(response_id=R))
    assert (bench.kinds(), replies(bench)) == (["Accepted", "Cancelled"], [])


async def test_an_open_backend_that_fails_is_named_and_stops_nobody() -> None:
    bench, _ = await started(policy=POLICY.replace("closed", "open"))
    wish = ModerationWish(model="m")
    await bench.journal(requested(text=FAIL, moderation=wish), claimed(), tokens(f"A {FAIL} ", finish="stop"))
    fold = public(bench)
    assert isinstance(fold.terminal, Completed) and fold.terminal.text == f"A {FAIL} "
    assert fold.accepted is not None and fold.accepted.moderation is not None and fold.terminal.moderation is not None
    assert fold.accepted.moderation.failed == fold.terminal.moderation.failed == ["words"]
    statuses = {report.status for verdict in bench.log.of(VERDICTS, Verdict) for report in verdict.backends}
    assert statuses == {"failed", "ok"}


# -- output --------------------------------------------------------------------------------------------------------


async def running(**options: Any) -> tuple[OwnerBench, WordBackend]:
    bench, backend = await started(**options)
    await bench.journal(requested(), claimed())
    return bench, backend


async def test_text_waits_for_its_checkpoint_and_the_journal_is_folded_meanwhile() -> None:
    bench, backend = await running()
    await bench.journal(tokens(CALM), tokens(HANG + CALM, len(CALM)))
    waiting_at = public(bench).position
    assert waiting_at < len(CALM), "what the checkpoints before it saw is public, less what is held back"
    await bench.journal(requested(2))
    assert bench.owner.judging == 2
    await answered(bench, backend)
    assert public(bench).position > len(CALM)
    assert public(bench, 2).accepted is not None


async def test_a_score_cuts_at_the_clause_and_what_is_judged_later_counts_no_more() -> None:
    bench, backend = await running()
    text = CALM + "But I have a qualm about it. "
    await bench.journal(tokens(text + HANG))
    await answered(bench, backend)
    fold = public(bench)
    assert isinstance(fold.terminal, Incomplete) and fold.terminal.text == CALM
    assert [type(event).__name__ for event in bench.events()].count("Incomplete") == 1
    (cut,) = bench.log.of(JOURNAL, Cut)
    assert (cut.reason, cut.category) == ("policy", "violence")
    told = [(v.category, v.start) for v in verdicts(bench, "output") if v.action == "cut"]
    assert ("violence", len(CALM)) in told
    assert [stop.claim for stop in bench.stops] == ["claim_a"]


async def test_a_cancel_frees_the_slot_at_once_and_ends_the_response_once_all_is_judged() -> None:
    bench, backend = await running()
    await bench.journal(tokens(CALM + HANG), Cancel(response_id=R))
    assert [(stop.claim, stop.reason) for stop in bench.stops] == [("claim_a", "ended")]
    assert public(bench).terminal is None
    await answered(bench, backend)
    assert isinstance(public(bench).terminal, Cancelled)
    assert public(bench).text == CALM + HANG
    assert len(bench.stops) == 1


async def test_a_closed_backend_that_fails_ends_the_response_by_the_journal_with_what_is_public() -> None:
    bench, _ = await running()
    await bench.journal(tokens(CALM), tokens(FAIL + CALM, len(CALM)))
    fold = public(bench)
    assert isinstance(fold.terminal, Failed) and fold.terminal.code == "moderation_unavailable"
    assert fold.terminal.text == fold.text == CALM[: fold.position]
    (cut,) = bench.log.of(JOURNAL, Cut)
    assert (cut.reason, cut.stage, cut.code) == ("failed", "output", "moderation_unavailable")
    assert [stop.claim for stop in bench.stops] == ["claim_a"]


@pytest.mark.parametrize(("end", "kind"), [(tokens("", 74, finish="stop"), Failed), (Cancel(response_id=R), Cancelled)])
async def test_where_the_journal_has_decided_already_unjudged_text_stays_unsaid(end: Any, kind: type[Any]) -> None:
    bench, _ = await started()
    text = CALM + FAIL + "a" * 15
    assert len(text) == 74
    await bench.journal(requested())
    await bench.together(claimed(), tokens(text), end)
    fold = public(bench)
    assert isinstance(fold.terminal, kind)
    assert FAIL not in fold.terminal.text and fold.terminal.text == fold.text


@pytest.mark.parametrize("end", ["finish", "deadline"])
async def test_a_backend_that_never_answers_keeps_no_response_from_its_end(end: str) -> None:
    """It loads for ever, say, or what waits for it is more than it will ever answer."""
    bench, backend = await started()
    finish = "stop" if end == "finish" else None
    await bench.journal(requested(deadline_ms=START_MS + 2_000), claimed(), tokens(CALM + HANG, finish=finish))
    await bench.advance(20_000)
    assert public(bench).terminal is None, "it may be slow"
    await bench.advance(14_000)
    fold = public(bench)
    assert isinstance(fold.terminal, Failed)
    assert (fold.terminal.code == "moderation_unavailable") == (end == "finish")
    assert fold.terminal.text == fold.text and HANG not in fold.text
    await answered(bench, backend)
    assert bench.kinds().count("Failed") == 1


# -- owners that come and go ---------------------------------------------------------------------------------------


async def test_an_answer_for_a_partition_that_was_dropped_is_nobodys() -> None:
    bench, backend = await running()
    await bench.journal(requested(2, HANG), tokens(CALM + HANG))
    await bench.owner.drop([PARTITION])
    before = len(bench.log.order)
    await answered(bench, backend)
    assert len(bench.log.order) == before
    assert bench.owner.judging == 0


@pytest.mark.parametrize("said", [CALM, CALM + HANG, CALM + "a qualm. "])
async def test_a_successor_judges_the_whole_text_again_and_comes_to_the_same(said: str) -> None:
    whole, backend = await running()
    backend.open.set()
    await whole.journal(tokens(said, finish="stop"))

    first, _ = await running()
    await first.journal(tokens(said[:60]), *([tokens(said[60:], 60)] if said[60:] else []))
    second, backend = await successor(first)
    backend.open.set()
    await second.pump()
    if public(second).terminal is None:
        await second.journal(tokens("", len(said), finish="stop"))
    assert public(second).terminal is not None and public(whole).terminal is not None
    assert type(public(second).terminal) is type(public(whole).terminal)
    assert public(second).text == public(whole).text == public(second).terminal.text  # type: ignore[union-attr]
    alike = {v.verdict_id: (v.action, v.scores) for v in verdicts(whole, "output")}
    assert {v.verdict_id: (v.action, v.scores) for v in verdicts(second, "output")} == alike


async def test_a_successor_whose_backend_is_gone_ends_with_all_that_is_public() -> None:
    """It has not come in its own judging to where the public log stands."""
    first, _ = await running()
    await first.journal(tokens(CALM))
    stood = public(first).text
    assert stood
    second, _ = await successor(first, fails=CALM[:8])
    fold = public(second)
    assert isinstance(fold.terminal, Failed)
    assert fold.terminal.text == fold.text == stood


MASKING = """
version: masking-1
streaming: {stride: 4, checkpoint: 8, hold_back: 24, lookback: 64}
backends:
  words: {kind: encoder, timeout_s: 30, on_failure: open}
categories:
  names: {output: mask}
"""
NAME = "Bartholomew-the-Younger"


@pytest.mark.parametrize("said", range(8, 56, 4))
async def test_what_one_owner_published_stands_where_the_next_one_masks_it(said: int) -> None:
    """The backend is open, and failed the first: a name is public, wholly or in part, that the second finds."""
    before, after = f"I met {NAME} ", "in the market hall, and he bought two dozen eggs. "
    text = before + after
    first, _ = await masking(fails=NAME[:3])
    await first.journal(requested(), claimed(), tokens(text[: said + 24]))
    stood = public(first)
    second, _ = await masking(first.log, service_id="moderation_2", generation=2)
    await second.journal(tokens(text[said + 24 :], said + 24, finish="stop"))
    fold = public(second)
    assert isinstance(fold.terminal, Completed)
    assert fold.terminal.text == fold.text
    assert fold.text.startswith(stood.text) and fold.text.endswith(after)
    assert NAME not in fold.text or stood.position >= len(before) - 1


async def masking(log: MemoryLog | None = None, *, fails: str | None = None, **options: Any) -> Any:
    """An owner whose backend finds the name, unless it fails."""
    backend = WordBackend("words", {}, places={NAME: "names"}, fails=fails, noise=0.0)
    bench = OwnerBench(log, policy=MASKING, build=lambda *_: backend, **options)
    bench.hear(gateway_beat(), worker_beat(claims=["claim_a"], steps=1))
    await bench.start()
    return bench, backend


async def test_a_heal_while_something_is_judged_asks_again() -> None:
    bench, backend = await running()
    await bench.journal(tokens(CALM + HANG))
    bench.writer.fails = lambda topic, record: topic is EVENTS and isinstance(record, Accepted)
    await bench.journal(requested(2))
    bench.writer.fails = lambda _topic, _record: False
    await bench.tick()
    await answered(bench, backend)
    await bench.tick()
    await bench.journal(tokens("", len(CALM + HANG), finish="stop"))
    assert public(bench).text == CALM + HANG
    assert isinstance(public(bench).terminal, Completed)
    assert [type(event) for event in bench.events()].count(Completed) == 1


# -- policies that change ------------------------------------------------------------------------------------------

LAX = POLICY.replace("judged-1", "judged-2").replace("output: cut", "output: flag")


async def test_a_response_keeps_its_policy_and_so_does_its_next_owner() -> None:
    bench, _ = await running()
    bench.policies.replace(parse_policy(LAX))
    await bench.journal(
        tokens(CALM), requested(2), claimed(2, "claim_b"), tokens("A qualm.", number=2, claim="claim_b", finish="stop")
    )
    assert public(bench, 2).text == "A qualm."
    other, _ = await started(bench.log, policy=LAX, service_id="moderation_2", generation=2)
    assert isinstance(public(other).terminal, Failed), "nobody knows the first policy there"


# -- the gate ------------------------------------------------------------------------------------------------------


async def test_no_event_is_published_before_the_verdict_on_it_is_acknowledged() -> None:
    bench, backend = await running()
    backend.open.set()
    bench.writer.slow = True
    await bench.journal(requested(2), tokens(CALM + CALM))
    assert (public(bench).position, bench.kinds(2)) == (0, [])
    assert verdicts(bench, "output"), "they are on their way"
    bench.writer.acknowledge()
    await bench.pump()
    assert bench.kinds(2) == ["Accepted"]
    assert public(bench).position > 0
    deltas = [event for event in bench.events(1) if isinstance(event, Delta)]
    assert [delta.start for delta in deltas] == [0, *(delta.end for delta in deltas[:-1])]
