"""DESIGN 4, 5.5, 5.6 and 9: refusals, deadlines, followers, cancels, cuts and what the workers are told."""

import pytest

from shared.records import (
    Accepted,
    Attached,
    Cancel,
    Cancelled,
    Claimed,
    Completed,
    Cut,
    Delta,
    Detached,
    Failed,
    Incomplete,
    Journal,
    Rejected,
    Verdict,
)
from shared.topics import JOURNAL, REPLIES, VERDICTS
from tests.support.owner_bench import (
    GATEWAY,
    OwnerBench,
    claimed,
    gateway_beat,
    requested,
    response_id,
    tokens,
    worker_beat,
)
from tests.support.policies import CUT_PHRASE, MASK_PHRASE, REFUSE_PHRASE

R = response_id(1)


async def running(*records: Journal, **settings: object) -> OwnerBench:
    bench = OwnerBench(**settings)
    bench.hear(gateway_beat(), worker_beat())
    await bench.start()
    await bench.journal(*records)
    bench.hear(worker_beat(claims=["claim_a"], slots=3, steps=1))
    return bench


def replies(bench: OwnerBench) -> list[Rejected]:
    return bench.log.of(REPLIES, Rejected)


# -- input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["input", "instructions", "context"])
async def test_refused_input_is_told_to_the_asking_gateway_and_to_nobody_else(where: str) -> None:
    bad = f"Take me to the {REFUSE_PHRASE}"
    request = {
        "input": requested(text=bad),
        "instructions": requested(instructions=bad),
        "context": requested(context=requested(text=bad).spec.input),
    }[where]
    bench = await running(request)
    (reply,) = replies(bench)
    assert (reply.status, reply.code, reply.param) == (400, "content_policy_violation", "input")
    assert (reply.gateway, reply.correlation_id) == (GATEWAY, R)
    assert bench.log.end(REPLIES, 7) == 1, "it goes to that gateway's own partition"
    (cut,) = bench.log.of(JOURNAL, Cut)
    assert (cut.reason, cut.stage, cut.category) == ("policy", "input", "illicit")
    assert (bench.events(), bench.jobs) == ([], [])
    (verdict,) = bench.log.of(VERDICTS, Verdict)
    assert (verdict.stage, verdict.action) == ("input", "refuse")
    await bench.tick()
    assert bench.owner.low_watermarks() == {3: bench.log.end(JOURNAL, 3)}


async def test_too_many_waiting_become_429_and_leave_nothing_public() -> None:
    bench = OwnerBench(max_waiting=2)
    bench.hear(gateway_beat())
    await bench.start()
    await bench.journal(requested(1), requested(2), requested(3))
    (reply,) = replies(bench)
    assert (reply.status, reply.code, reply.correlation_id) == (429, "rate_limit_exceeded", response_id(3))
    assert bench.kinds() == ["Accepted", "Accepted"]
    assert bench.owner.waiting == 2


async def test_a_burst_in_one_batch_is_held_against_the_slots_and_the_bound() -> None:
    bench = OwnerBench(max_waiting=2)
    bench.hear(gateway_beat(), worker_beat(slots=3))
    await bench.start()
    await bench.together(*(requested(number) for number in range(1, 9)))
    assert [reply.status for reply in replies(bench)] == [429] * 3
    assert (len(bench.jobs), bench.owner.waiting) == (3, 2)


async def test_a_429_is_told_once_the_journal_has_decided_it() -> None:
    """How many wait depends on the moment, so that a successor must find it in the journal."""
    bench = OwnerBench(max_waiting=1)
    bench.hear(gateway_beat())
    await bench.start()
    await bench.journal(requested(2))
    bench.log.append(JOURNAL, requested(1))
    await bench.owner.on_records(bench.log.read(JOURNAL, bench.partition)[-1:])
    assert replies(bench) == []
    other = OwnerBench(bench.log, max_waiting=9, generation=2)
    other.hear(gateway_beat(), worker_beat())
    await other.start()
    assert [reply.status for reply in replies(other)] == [429]
    assert other.kinds(1) == ["Screening"]


async def test_a_request_that_was_cancelled_before_it_was_screened_is_accepted_and_ends_as_cancelled() -> None:
    """Another owner may have accepted it before: only `cut{stage: input}` says that nothing became of it."""
    bench = OwnerBench()
    bench.hear(gateway_beat(), worker_beat())
    await bench.start()
    await bench.together(requested(1), Cancel(response_id=R))
    assert (replies(bench), bench.jobs) == ([], [])
    assert bench.kinds() == ["Accepted", "Cancelled"]


async def test_input_that_is_refused_stays_refused_when_it_was_cancelled_meanwhile() -> None:
    bench = OwnerBench()
    bench.hear(gateway_beat(), worker_beat())
    await bench.start()
    await bench.together(requested(1, text=REFUSE_PHRASE), Cancel(response_id=R))
    assert [reply.status for reply in replies(bench)] == [400]
    assert bench.events() == []


# -- output --------------------------------------------------------------------------------------------------------


async def test_text_is_published_as_it_is_released_and_the_terminal_has_the_whole() -> None:
    text = "All of this is harmless. " * 6
    bench = await running(requested(), claimed())
    for position in range(0, len(text), 10):
        await bench.journal(tokens(text[position : position + 10], position))
    before = [e for e in bench.events() if isinstance(e, Delta)]
    assert 0 < sum(len(d.text) for d in before) <= len(text) - 32, "the newest are held back"
    await bench.journal(tokens("", len(text), finish="stop"))
    accepted, *deltas, end = bench.events()
    assert isinstance(accepted, Accepted)
    assert isinstance(end, Completed)
    assert "".join(delta.text for delta in deltas) == end.text == text
    assert [d.start for d in deltas] == [0, *(d.end for d in deltas[:-1])]
    assert all(d.policy == accepted.policy for d in deltas), "each delta names the decision that released it"
    assert (end.usage.input_tokens, end.usage.output_tokens) == (5, len(text))
    assert bench.stops == [], "the worker ended by itself"


async def test_a_violation_publishes_what_was_clean_then_the_end_then_stops_the_worker() -> None:
    bench = await running(requested(), claimed())
    await bench.journal(tokens(f"Look at that {CUT_PHRASE} over there, it is huge!"))
    end = bench.events()[-1]
    assert (type(end), end.text) == (Incomplete, "Look at that ")
    assert end.reason == "content_filter"
    assert bench.kinds() == ["Accepted", "Delta", "Incomplete"]
    (cut,) = bench.log.of(JOURNAL, Cut)
    assert (cut.reason, cut.stage, cut.category) == ("policy", "output", "violence")
    assert [(stop.claim, stop.reason) for stop in bench.stops] == [("claim_a", "ended")]
    await bench.journal(tokens("and more", 100, finish="stop"))
    assert bench.kinds() == ["Accepted", "Delta", "Incomplete"], "nothing after a cut"
    assert all("zeppelin" not in str(event) for event in bench.events())


async def test_a_masked_piece_is_one_delta_over_the_raw_positions() -> None:
    bench = await running(requested(), claimed(), tokens(f"A {MASK_PHRASE} a day", finish="stop"))
    masked = next(e for e in bench.events() if isinstance(e, Delta) and e.text == "[fruit]")
    assert (masked.start, masked.end) == (2, 2 + len(MASK_PHRASE))
    assert bench.events()[-1].text == "A [fruit] a day"


@pytest.mark.parametrize(("finish", "kind"), [("stop", Completed), ("length", Incomplete)])
async def test_the_finish_rides_on_the_last_tokens(finish: str, kind: type) -> None:
    bench = await running(requested(), claimed(), tokens("Hi", finish=finish))
    assert isinstance(bench.events()[-1], kind)
    assert bench.events()[-1].text == "Hi"
    if kind is Incomplete:
        assert bench.events()[-1].reason == "max_output_tokens"


async def test_the_first_decision_wins_and_a_cancelled_generation_is_stopped() -> None:
    bench = await running(requested(), claimed(), tokens("Half a sent"))
    await bench.journal(Cancel(response_id=R), tokens("ence", 11, finish="stop"))
    end = bench.events()[-1]
    assert (type(end), end.text) == (Cancelled, "Half a sent")
    assert "claim_a" in {stop.claim for stop in bench.stops}


async def test_every_claim_on_an_ended_response_is_told_to_stop_even_when_it_is_long_forgotten() -> None:
    bench = await running(requested(), claimed(), tokens("Hi", finish="stop"))
    await bench.tick()
    late = Claimed(response_id=R, claim="claim_z", attempt=2, worker="worker_2", mailbox=5)
    await bench.journal(late)
    assert [(s.claim, s.response_id) for s in bench.stops] == [("claim_z", R)]
    assert bench.kinds() == ["Accepted", "Delta", "Completed"]


# -- time ----------------------------------------------------------------------------------------------------------


async def test_a_response_ends_once_its_deadline_passes_with_what_was_said() -> None:
    bench = await running(requested(deadline_ms=requested().created_ms + 5_000), claimed(), tokens("Slow"))
    await bench.advance(5_000)
    assert "Failed" not in bench.kinds()
    await bench.advance(200)
    (cut,) = bench.log.of(JOURNAL, Cut)
    assert cut.reason == "deadline"
    end = bench.events()[-1]
    assert (type(end), end.text, end.code) == (Failed, "Slow", "server_error")
    assert "5 s" in end.message
    assert "claim_a" in {stop.claim for stop in bench.stops}, "its slot is freed"


async def test_a_response_that_only_waits_ends_at_its_deadline_too() -> None:
    bench = OwnerBench()
    bench.hear(gateway_beat())
    await bench.start()
    await bench.journal(requested(deadline_ms=requested().created_ms + 1_000))
    await bench.advance(1_400)
    assert bench.kinds() == ["Accepted", "Failed"]
    assert bench.owner.waiting == 0


async def left_alone(*records: Journal, **changes: object) -> OwnerBench:
    return await running(requested(**changes), claimed(), tokens("Still here"), *records)


def beating_steps(bench: OwnerBench, steps: int) -> None:
    bench.hear(worker_beat(claims=["claim_a"], slots=3, steps=steps))


async def test_a_response_that_nobody_follows_is_cancelled_after_the_grace() -> None:
    bench = await left_alone(Detached(response_id=R, gateway=GATEWAY))
    await bench.advance(10_000)
    assert bench.log.of(JOURNAL, Cancel) == []
    await bench.advance(400)
    assert [cancel.reason for cancel in bench.log.of(JOURNAL, Cancel)] == ["abandoned"]
    assert isinstance(bench.events()[-1], Cancelled)
    assert [stop.claim for stop in bench.stops] == ["claim_a"]


async def test_a_follower_that_comes_back_within_the_grace_keeps_it_and_the_grace_starts_anew() -> None:
    bench = await left_alone(Detached(response_id=R, gateway=GATEWAY))
    await bench.advance(9_000)
    await bench.journal(Attached(response_id=R, gateway=GATEWAY))
    await bench.advance(9_000)
    await bench.journal(Detached(response_id=R, gateway=GATEWAY))
    await bench.advance(9_000)
    assert bench.log.of(JOURNAL, Cancel) == []


async def test_a_second_gateways_follower_is_enough() -> None:
    bench = await left_alone(Attached(response_id=R, gateway="gateway_2"))
    bench.hear(gateway_beat("gateway_2"))
    bench.silence(GATEWAY)
    for steps in (2, 3):
        await bench.advance(20_000)
        beating_steps(bench, steps)
    assert bench.log.of(JOURNAL, Cancel) == []


async def test_a_silent_gateway_counts_as_detached() -> None:
    bench = await left_alone()
    bench.silence(GATEWAY)
    await bench.advance(11_000)
    assert bench.log.of(JOURNAL, Cancel) == []
    await bench.advance(400)
    assert len(bench.log.of(JOURNAL, Cancel)) == 1


async def test_a_background_response_needs_no_follower() -> None:
    bench = await left_alone(Detached(response_id=R, gateway=GATEWAY), background=True)
    bench.silence(GATEWAY)
    await bench.advance(20_000)
    assert bench.log.of(JOURNAL, Cancel) == []
