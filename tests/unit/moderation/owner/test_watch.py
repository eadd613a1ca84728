"""DESIGN 5.3 and 5.7: when a new attempt starts, and when there is none any more. The clock is the log's."""

import pytest

from shared.records import Completed, Cut, Dispatched, Failed, Job, Released
from shared.records.codec import RecordDecoder
from shared.topics import DEAD_LETTERS, JOBS, JOURNAL
from tests.support.owner_bench import OwnerBench, claimed, gateway_beat, requested, response_id, tokens, worker_beat


async def generating(text: str = "Once upon a time", **settings: object) -> OwnerBench:
    """A response that `worker_1` claimed and has said `text` of; its beats name the claim."""
    bench = OwnerBench(**settings)
    bench.hear(gateway_beat(), worker_beat("worker_1"))
    await bench.start()
    await bench.journal(requested(), claimed())
    if text:
        await bench.journal(tokens(text))
    bench.hear(worker_beat("worker_1", claims=["claim_a"], slots=3))
    return bench


def attempts(bench: OwnerBench) -> list[tuple[int, str]]:
    return [(d.attempt, d.worker) for d in bench.log.of(JOURNAL, Dispatched)]


def stepping(bench: OwnerBench, steps: int) -> None:
    bench.hear(worker_beat("worker_1", claims=["claim_a"], slots=3, steps=steps))


async def test_a_living_generation_is_left_alone() -> None:
    bench = await generating()
    for steps in range(1, 200):
        stepping(bench, steps)
        await bench.advance(200)
    assert attempts(bench) == [(1, "worker_1")]


async def test_a_job_that_nobody_claims_is_sent_anew_after_the_claim_timeout() -> None:
    bench = OwnerBench()
    bench.hear(gateway_beat(), worker_beat())
    await bench.start()
    await bench.journal(requested())
    await bench.advance(2_000)
    assert len(attempts(bench)) == 1
    await bench.advance(200)
    assert [number for number, _ in attempts(bench)] == [1, 2]


async def test_a_job_whose_worker_fell_silent_before_it_claimed_waits_no_longer() -> None:
    bench = OwnerBench()
    bench.hear(gateway_beat(), worker_beat("worker_1"))
    await bench.start()
    await bench.journal(requested())
    bench.silence("worker_1")
    bench.hear(worker_beat("worker_2", mailbox=1))
    await bench.advance(1_000)
    assert attempts(bench) == [(1, "worker_1")]
    await bench.advance(400)
    assert attempts(bench) == [(1, "worker_1"), (2, "worker_2")]


async def test_a_released_claim_starts_a_new_attempt_but_not_more_often_than_allowed() -> None:
    bench = await generating("", redispatch_every_s=0.8)
    await bench.journal(
        Released(response_id=response_id(1), claim="claim_a", attempt=1, worker="worker_1", reason="drain")
    )
    await bench.advance(600)
    assert len(attempts(bench)) == 1, "re-dispatch is rate-limited"
    await bench.advance(200)
    assert len(attempts(bench)) == 2


async def test_a_silent_worker_is_replaced_judged_against_the_beats_of_others() -> None:
    bench = await generating()
    bench.hear(worker_beat("worker_2", mailbox=1))
    bench.silence("worker_1")
    await bench.advance(1_000)
    assert len(attempts(bench)) == 1
    await bench.advance(200)
    assert attempts(bench)[1:] == [(2, "worker_2")]


async def test_when_everybody_is_silent_nobody_is_dead() -> None:
    bench = await generating()
    bench.living.clear()
    await bench.advance(60_000)
    assert len(attempts(bench)) == 1


@pytest.mark.parametrize("claimed_before", [True, False])
async def test_an_outage_of_the_broker_starts_no_attempt(claimed_before: bool) -> None:
    """The first beat behind it must not find everybody dead, a claim on its way late, or a claim forgotten that the
    beats from before the outage could not name."""
    bench = OwnerBench()
    bench.hear(gateway_beat(), worker_beat("worker_1"))
    await bench.start()
    await bench.journal(requested(), *([claimed()] if claimed_before else []))
    bench.log.now_ms += 7_000
    bench.hear(gateway_beat())
    await bench.tick()
    await bench.advance(400)
    if not claimed_before:
        await bench.journal(claimed())
    bench.hear(worker_beat("worker_1", claims=["claim_a"], slots=3))
    await bench.advance(600)
    assert attempts(bench) == [(1, "worker_1")]


async def test_tokens_count_as_heartbeats() -> None:
    bench = await generating("")
    bench.silence("worker_1")
    bench.hear(worker_beat("worker_2", mailbox=1))
    for position in range(20):
        await bench.journal(tokens("x", position))
        await bench.advance(800)
    assert len(attempts(bench)) == 1


async def test_a_worker_that_no_longer_names_the_claim_has_forgotten_it() -> None:
    bench = await generating()
    bench.hear(worker_beat("worker_1", claims=[]))
    await bench.advance(1_000)
    assert len(attempts(bench)) == 1, "a beat may be older than the claim that it does not name"
    await bench.advance(400)
    assert [number for number, _ in attempts(bench)] == [1, 2]


async def test_a_worker_whose_engine_stands_still_is_stuck() -> None:
    bench = await generating()
    await bench.advance(30_000)
    assert len(attempts(bench)) == 1
    await bench.advance(400)
    assert [number for number, _ in attempts(bench)] == [1, 2]


async def test_a_step_counter_that_moves_is_not_stuck_even_without_tokens() -> None:
    bench = await generating()
    for steps in (1, 2, 3):
        await bench.advance(29_000)
        stepping(bench, steps)
    assert len(attempts(bench)) == 1


async def test_a_void_takeover_is_replaced_and_told_to_stop(caplog: pytest.LogCaptureFixture) -> None:
    """Which is no error: the loss of a broker does it."""
    bench = await generating("Hello")
    bench.hear(worker_beat("worker_2", mailbox=1))
    await bench.journal(claimed(1, "claim_b", 2, "worker_2"), tokens("lo", 3, claim="claim_b"))
    assert ("claim_b" in {stop.claim for stop in bench.stops}) and ("claim_a" in {stop.claim for stop in bench.stops})
    await bench.advance(1_000)
    assert [number for number, _ in attempts(bench)] == [1, 3]
    (told,) = (record for record in caplog.records if "the claim is void" in record.getMessage())
    assert told.levelname == "WARNING"


async def fail_attempt(bench: OwnerBench, attempt: int, said: str = "", position: int = 0) -> None:
    """The worker claims attempt `attempt`, perhaps says something, and releases."""
    claim = f"claim_{attempt}"
    await bench.journal(claimed(1, claim, attempt))
    if said:
        await bench.journal(tokens(said, position, claim=claim))
    await bench.journal(
        Released(response_id=response_id(1), claim=claim, attempt=attempt, worker="worker_1", reason="died")
    )
    await bench.advance(600)


async def waiting_for_claims() -> OwnerBench:
    bench = OwnerBench()
    bench.hear(gateway_beat(), worker_beat())
    await bench.start()
    await bench.journal(requested())
    return bench


async def test_three_attempts_without_progress_fail_the_response_and_put_the_job_aside() -> None:
    bench = await waiting_for_claims()
    for attempt in (1, 2, 3):
        await fail_attempt(bench, attempt)
    assert [number for number, _ in attempts(bench)] == [1, 2, 3]
    (cut,) = bench.log.of(JOURNAL, Cut)
    assert (cut.reason, cut.stage) == ("failed", "output")
    end = bench.events()[-1]
    assert isinstance(end, Failed)
    assert (end.code, "3 attempts" in end.message) == ("server_error", True)
    (letter,) = bench.log.dead_letters(JOBS)
    assert (letter.key, letter.attempts) == (response_id(1), 3)
    assert "(the worker released its claim, or it turned out void). died" in letter.error, "with the worker's own word"
    job = RecordDecoder[Job](Job).decode(letter.value.encode())
    assert (job.response_id, job.prompt[0].text) == (response_id(1), "Hello")


async def test_a_job_too_long_for_a_dead_letter_ends_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    bench = await waiting_for_claims()
    bench.writer.refuses = lambda topic, _record: topic is DEAD_LETTERS[JOBS.name]
    for attempt in (1, 2, 3):
        await fail_attempt(bench, attempt)
    assert isinstance(bench.events()[-1], Failed)
    assert f"Job of {response_id(1)} has no dead letter" in caplog.text
    assert bench.writer.lost == [JOBS.name]


async def test_progress_starts_the_count_anew() -> None:
    bench = await waiting_for_claims()
    for attempt in range(1, 6):
        await fail_attempt(bench, attempt, "ab", 2 * (attempt - 1))
    assert [number for number, _ in attempts(bench)] == [1, 2, 3, 4, 5, 6]
    assert bench.log.of(JOURNAL, Cut) == []


async def test_ten_attempts_end_it_even_with_progress() -> None:
    bench = await waiting_for_claims()
    for attempt in range(1, 11):
        await fail_attempt(bench, attempt, "a", attempt - 1)
    assert [number for number, _ in attempts(bench)] == list(range(1, 11))
    assert isinstance(bench.events()[-1], Failed)
    assert bench.events()[-1].text == "a" * 10, "what was said stays said"
    assert len(bench.log.dead_letters(JOBS)) == 1


async def test_the_takeover_goes_on_where_the_first_worker_stopped() -> None:
    bench = await generating("Hello wo")
    bench.silence("worker_1")
    bench.hear(worker_beat("worker_2", mailbox=1))
    await bench.advance(1_200)
    await bench.journal(claimed(1, "claim_b", 2, "worker_2"), tokens("XX", 8), tokens("rld", 8, claim="claim_b"))
    await bench.journal(tokens("", 11, claim="claim_b", finish="stop"))
    end = bench.events()[-1]
    assert (type(end), end.text) == (Completed, "Hello world")
    assert end.usage.output_tokens == 11


@pytest.mark.parametrize("late", ["claim_b", "claim_a"])
async def test_a_superseded_claim_that_shows_itself_is_told_to_stop(late: str) -> None:
    """Rule 5.5, also for a second claim of the same attempt, which came too late to own anything."""
    bench = await generating("Hello")
    if late == "claim_b":
        await bench.journal(claimed(1, "claim_b", 1, "worker_2"))
    else:
        await bench.journal(claimed(1, "claim_c", 2, "worker_2"), tokens("late", 5))
    assert late in {stop.claim for stop in bench.stops}
    assert "claim_c" not in {stop.claim for stop in bench.stops}


async def test_the_owning_claim_is_never_told_to_stop_for_a_second_copy() -> None:
    bench = await generating("Hello")
    await bench.journal(claimed(), tokens("Hello"), tokens(" you", 5))
    assert bench.stops == []
