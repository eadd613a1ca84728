"""DESIGN 4: which worker gets a job, and who waits in which order while no slot is free."""

import random
from collections import Counter

from services.moderation.owner.dispatch import Slots, choose_worker, mailbox_of
from shared.heartbeats import Member
from shared.records import Cancel, Dispatched, Heartbeat, Released
from shared.topics import JOBS, JOURNAL
from tests.support.owner_bench import (
    MODEL,
    OwnerBench,
    claimed,
    gateway_beat,
    requested,
    response_id,
    tokens,
    worker_beat,
)

NOW_MS = 1_000_000


def member(worker: str, slots: int = 4, *, last_ms: int = NOW_MS, **changes: object) -> Member:
    return Member(worker_beat(worker, slots=slots, **changes), last_ms, last_ms)


def chosen(workers: list[Member], slots: Slots | None = None, affinity: str | None = None, seed: int = 0) -> str | None:
    found = choose_worker(workers, slots or Slots(), NOW_MS, MODEL, affinity, random.Random(seed))
    return None if found is None else found.beat.id


# -- choosing, pure ------------------------------------------------------------------------------------------------


def test_the_affinity_worker_comes_first_and_every_owner_names_the_same() -> None:
    workers = [member(f"w{n}", slots=1 + n) for n in range(6)]
    picks = {key: {chosen(workers, affinity=key, seed=seed) for seed in range(20)} for key in ("conv_1", "conv_2", "x")}
    assert all(len(found) == 1 for found in picks.values())
    spread = {chosen(workers, affinity=f"conv_{n}") for n in range(100)}
    assert spread == {f"w{n}" for n in range(6)}


def test_a_full_affinity_worker_is_passed_over() -> None:
    workers = [member(f"w{n}") for n in range(3)]
    favourite = chosen(workers, affinity="conv_1")
    assert favourite is not None
    busy = [m if m.beat.id != favourite else member(favourite, slots=0) for m in workers]
    assert chosen(busy, affinity="conv_1") not in (favourite, None)


def test_affinity_is_sought_among_the_workers_of_the_model() -> None:
    """A worker of another model must not take the place of the one whose cache is warm."""
    ours = [member(f"w{n}") for n in range(3)]
    others = [member(f"x{n}", model="another") for n in range(30)]
    for number in range(20):
        key = f"conv_{number}"
        assert {chosen(ours + others, affinity=key, seed=seed) for seed in range(10)} == {chosen(ours, affinity=key)}


def test_without_affinity_the_better_of_two_random_workers_is_taken() -> None:
    workers = [member("low", 1), member("mid", 5), member("high", 9)]
    picks = Counter(chosen(workers, seed=seed) for seed in range(300))
    assert picks["low"] == 0, "whoever it is compared with has more free slots"
    assert picks["mid"] > 50, "two choices, not the best of all: a burst must not go to one worker"
    assert picks["high"] > picks["mid"]


def test_no_worker_without_slot_mailbox_or_model_is_chosen() -> None:
    assert chosen([]) is None
    assert chosen([member("w", 0)]) is None
    assert chosen([member("w", partitions=[])]) is None
    assert chosen([member("w", model="another")]) is None


def test_what_was_sent_counts_as_taken_until_it_lapses() -> None:
    slots, worker = Slots(), member("w", 2)
    slots.reserve("w", "r1", NOW_MS + 100)
    assert slots.free(worker, NOW_MS) == 1
    slots.reserve("w", "r2", NOW_MS + 100)
    assert chosen([worker], slots) is None
    assert slots.free(worker, NOW_MS + 101) == 2


def test_a_response_always_goes_to_the_same_of_a_workers_mailboxes() -> None:
    worker = member("w", partitions=[4, 9, 11])
    boxes = {response_id(n): mailbox_of(worker, response_id(n)) for n in range(60)}
    assert set(boxes.values()) == {4, 9, 11}
    assert all(mailbox_of(worker, key) == box for key, box in boxes.items())


# -- dispatching, in the owner -------------------------------------------------------------------------------------


async def started(*beats: Heartbeat, **settings: object) -> OwnerBench:
    bench = OwnerBench(**settings)
    bench.hear(gateway_beat(), *beats)
    await bench.start()
    return bench


def sent_to(bench: OwnerBench) -> list[tuple[str, int]]:
    return [(d.worker, d.attempt) for d in bench.log.of(JOURNAL, Dispatched)]


async def test_an_accepted_request_becomes_job_one_with_all_that_a_takeover_needs() -> None:
    bench = await started(worker_beat(mailbox=6))
    await bench.journal(requested(instructions="Be brief."))
    (job,) = bench.jobs
    assert (job.attempt, job.journal_offset, job.model) == (1, 0, MODEL)
    assert [m.text for m in job.prompt] == ["Be brief.", "Hello"]
    assert job.deadline_ms == requested().deadline_ms
    assert bench.log.end(JOBS, 6) == 1
    assert sent_to(bench) == [("worker_1", 1)]


async def test_nobody_free_means_waiting_and_then_going() -> None:
    bench = await started()
    await bench.journal(requested())
    await bench.advance(1_000)
    assert (bench.jobs, bench.owner.waiting) == ([], 1)
    assert bench.kinds() == ["Accepted"], "it is accepted all the same"
    bench.hear(worker_beat())
    await bench.advance(200)
    assert [job.attempt for job in bench.jobs] == [1]
    assert bench.owner.waiting == 0


async def test_jobs_wait_by_priority_then_by_age() -> None:
    bench = await started()
    await bench.journal(
        requested(1, created_ms=1_790_000_000_003),
        requested(2, created_ms=1_790_000_000_001),
        requested(3, created_ms=1_790_000_000_009, priority=5),
        requested(4, created_ms=1_790_000_000_002),
    )
    bench.hear(worker_beat(slots=4))
    await bench.advance(200)
    assert [job.response_id for job in bench.jobs] == [response_id(n) for n in (3, 2, 4, 1)]


async def test_a_model_without_free_slots_holds_up_no_other_model() -> None:
    bench = await started(worker_beat("other", model="another"))
    await bench.journal(requested(1, priority=9), requested(2, model="another"))
    assert [job.response_id for job in bench.jobs] == [response_id(2)]


async def test_a_burst_never_sends_more_than_the_free_slots() -> None:
    bench = await started(worker_beat(slots=2))
    await bench.together(*(requested(n) for n in range(1, 6)))
    assert len(bench.jobs) == 2
    assert bench.owner.waiting == 3


async def test_a_claim_still_takes_its_slot_before_the_next_beat_tells_of_it() -> None:
    """Beats are up to 200 ms old: what was claimed since then must not look free again (an attempt would be lost)."""
    bench = await started(worker_beat(slots=1))
    await bench.journal(requested(1), requested(2), claimed(1))
    await bench.tick()
    assert [job.response_id for job in bench.jobs] == [response_id(1)]
    bench.hear(worker_beat(slots=0, claims=["claim_a"]))
    await bench.advance(400)
    assert len(bench.jobs) == 1, "now the beat says so itself"


async def test_a_claimed_slot_is_free_again_as_soon_as_a_younger_beat_says_so() -> None:
    bench = await started(worker_beat(slots=1))
    await bench.journal(requested(1), requested(2), claimed(1), tokens("Hi", finish="stop"))
    await bench.advance(200)
    assert [job.response_id for job in bench.jobs] == [response_id(1), response_id(2)]


async def test_a_full_workers_release_is_not_repeated_on_a_stale_beat() -> None:
    bench = await started(worker_beat(slots=1))
    released = Released(
        response_id=response_id(1), claim="claim_a", attempt=1, worker="worker_1", reason="no free slot"
    )
    await bench.journal(requested(1), requested(2), claimed(1), released)
    await bench.tick()
    assert [job.response_id for job in bench.jobs] == [response_id(1)]


async def test_an_ended_response_does_not_wait_any_longer() -> None:
    bench = await started()
    await bench.journal(requested(1), Cancel(response_id=response_id(1)))
    assert bench.owner.waiting == 0
    bench.hear(worker_beat())
    await bench.advance(400)
    assert bench.jobs == []
