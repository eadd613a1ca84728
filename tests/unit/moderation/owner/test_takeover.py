"""DESIGN 4, 6.1 and 8.6: owners that come, go, fail to append and meet what they cannot read."""

import asyncio
from collections.abc import Callable

import pytest

from services.moderation.owner.partition import first_epoch
from shared.errors import BrokerUnavailableError
from shared.folds import EventFold
from shared.records import (
    Accepted,
    Cancel,
    Completed,
    Cut,
    Delta,
    Dispatched,
    Failed,
    Incomplete,
    Record,
    Rejected,
    Screening,
    Tokens,
)
from shared.records.codec import encode_value
from shared.topics import DEAD_LETTERS, EVENTS, JOBS, JOURNAL, REPLIES, Topic
from tests.support.fakes import MemoryLog, settle
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
from tests.support.policies import CUT_PHRASE, REFUSE_PHRASE, TEST_POLICY

FIRST, SECOND = first_epoch(1), first_epoch(2)
TEXT = "It was a bright cold day in April, and the clocks were striking thirteen."


async def past(*records: object, upto: int | None = None) -> MemoryLog:
    """What a first owner left behind; `upto`: how many of its events had reached the log when it died."""
    bench = OwnerBench()
    bench.hear(gateway_beat(), worker_beat())
    await bench.start()
    await bench.journal(*records)  # type: ignore[arg-type]
    if upto is not None:
        del bench.log.partitions[EVENTS.name, PARTITION][upto:]
        kept = [record for topic, record in bench.log.order if topic is EVENTS][:upto]
        bench.log.order = [(t, r) for t, r in bench.log.order if t is not EVENTS or r in kept]
    return bench.log


def successor(log: MemoryLog) -> OwnerBench:
    bench = OwnerBench(log, service_id="moderation_2", generation=2)
    bench.hear(gateway_beat(), worker_beat(claims=["claim_a"]))
    return bench


def public(bench: OwnerBench, number: int = 1) -> EventFold:
    fold = EventFold()
    for event in bench.events(number):
        fold.apply(event)
    return fold


# -- taking over ---------------------------------------------------------------------------------------------------


async def test_a_successor_with_another_policy_ends_the_response_with_what_is_public() -> None:
    log = await past(requested(), claimed(), tokens(TEXT, 0))
    stood = EventFold()
    for event in log.of(EVENTS):
        stood.apply(event)
    bench = OwnerBench(log, service_id="moderation_2", generation=2, policy=TEST_POLICY.replace("test-1", "test-2"))
    bench.hear(gateway_beat(), worker_beat(claims=["claim_a"]))
    await bench.start()
    fold = public(bench)
    assert isinstance(fold.terminal, Failed)
    assert "test-2" in fold.terminal.message
    assert fold.terminal.text == stood.text == fold.text != ""
    assert [stop.claim for stop in bench.stops] == ["claim_a"]


@pytest.mark.parametrize("upto", range(1, 6))
async def test_a_successor_goes_on_exactly_where_the_public_log_stands(upto: int) -> None:
    pieces = [tokens(TEXT[i : i + 12], i) for i in range(0, len(TEXT), 12)]
    log = await past(requested(), claimed(), *pieces, upto=upto)
    stood = EventFold()
    for event in log.of(EVENTS):
        stood.apply(event)
    bench = successor(log)
    await bench.start()
    await bench.journal(tokens("", len(TEXT), finish="stop"))
    (mark,) = [e for e in bench.events() if isinstance(e, Screening)]
    assert (mark.epoch, mark.owner) == (SECOND, "moderation_2")
    new = bench.events()[upto + 1 :]
    assert all(event.epoch == SECOND for event in new)
    assert next(e.start for e in new if isinstance(e, Delta)) == stood.position
    fold = public(bench)
    assert fold.text == TEXT
    assert fold.terminal is not None
    assert fold.terminal.text == TEXT


async def test_nothing_is_published_before_the_epoch_is_acknowledged() -> None:
    log = await past(requested(), claimed(), tokens(TEXT), upto=1)
    bench = successor(log)
    bench.writer.slow = True
    taking = asyncio.ensure_future(bench.start())
    await settle(turns=1_000)
    assert bench.kinds() == ["Accepted", "Screening"]
    assert not taking.done()
    bench.writer.acknowledge()
    await taking
    assert bench.kinds()[:3] == ["Accepted", "Screening", "Delta"]


async def test_what_the_old_owner_still_wrote_below_the_mark_is_not_repeated() -> None:
    """Rule 6.1: read up to the mark. The old owner's last delta arrives while the new one takes over."""
    log = await past(requested(), claimed(), tokens(TEXT), upto=1)
    late = Delta(response_id=response_id(1), epoch=FIRST, start=0, end=10, text=TEXT[:10], policy="p", window=2)
    bench = successor(log)
    looks: list[None] = []

    def old_owner() -> None:
        looks.append(None)
        if len(looks) == 1:
            log.append(EVENTS, late)

    bench.replayer.before_read = old_owner
    await bench.start()
    assert next(e.start for e in bench.events() if isinstance(e, Delta) and e.epoch == SECOND) == 10
    assert public(bench).text == TEXT[: public(bench).position]


async def test_what_the_old_owner_writes_behind_the_mark_is_ignored_by_readers() -> None:
    log = await past(requested(), claimed(), tokens(TEXT), upto=2)
    bench = successor(log)
    await bench.start()
    stood = public(bench).position
    wrong = Delta(
        response_id=response_id(1), epoch=FIRST, start=stood, end=stood + 5, text="WRONG", policy="p", window=9
    )
    log.append(EVENTS, wrong)
    await bench.journal(tokens("", len(TEXT), finish="stop"))
    assert public(bench).text == TEXT


async def test_an_owner_that_marks_late_does_not_outrank_its_successor() -> None:
    """It was paused between its assignment and its mark; the group gave the partition to another meanwhile."""
    log = await past(requested(), claimed(), tokens(TEXT), upto=2)
    rightful = OwnerBench(log, service_id="moderation_3", generation=3)
    rightful.hear(gateway_beat(), worker_beat(claims=["claim_a"]))
    await rightful.start()
    stood = len(log.of(EVENTS))
    await successor(log).start()
    (late,) = log.of(EVENTS)[stood:]
    assert (type(late), late.epoch) == (Screening, SECOND), "it publishes its mark and nothing more"
    await rightful.journal(tokens("", len(TEXT), finish="stop"))
    assert public(rightful).text == TEXT
    assert isinstance(public(rightful).terminal, Completed)


async def test_two_owners_that_read_in_other_batches_publish_the_same_pieces() -> None:
    """Rule 6.3: a reader that heard one of them goes on with the other."""
    pieces = [tokens(TEXT[i : i + 6], i) for i in range(0, len(TEXT), 6)]
    one_by_one = await past(requested(), claimed(), *pieces)
    bench = OwnerBench()
    bench.hear(gateway_beat(), worker_beat(claims=["claim_a"]))
    await bench.start()
    await bench.together(requested(), claimed(), *pieces)
    spans = [(d.start, d.end, d.text) for d in one_by_one.of(EVENTS, Delta)]
    assert [(d.start, d.end, d.text) for d in bench.log.of(EVENTS, Delta)] == spans
    assert len(spans) > 1


async def test_a_late_copy_of_a_request_that_another_owner_ended_starts_nothing() -> None:
    """It stands behind the low watermark of the successor, which knows nothing of the response."""
    log = await past(requested(), claimed(), tokens(TEXT, finish="stop"))
    before, jobs = log.of(EVENTS), len(log.of(JOBS))
    log.now_ms += 5_000
    bench = successor(log)
    await bench.start(log.end(JOURNAL, PARTITION))
    await bench.journal(requested())
    await bench.advance(3_000)
    assert log.of(EVENTS) == before
    assert len(log.of(JOBS)) == jobs
    assert bench.owner.low_watermarks() == {PARTITION: log.end(JOURNAL, PARTITION)}


async def test_a_request_that_was_long_on_its_way_is_served() -> None:
    log = MemoryLog()
    log.now_ms += 5_000
    bench = successor(log)
    await bench.start()
    await bench.journal(requested())
    assert bench.kinds() == ["Screening", "Accepted"]
    assert len(bench.jobs) == 1


async def test_a_late_request_waits_while_the_events_cannot_be_read() -> None:
    log = MemoryLog()
    log.now_ms += 5_000
    bench = successor(log)
    await bench.start()
    bench.replayer.failure = BrokerUnavailableError("away")
    await bench.journal(requested())
    assert bench.kinds() == []
    bench.replayer.failure = None
    await bench.tick()
    await bench.tick()
    assert bench.kinds()[-1] == "Accepted"


async def test_a_job_that_another_owner_sent_gets_its_time_to_be_claimed() -> None:
    bench = OwnerBench()
    bench.hear(gateway_beat())
    await bench.start()
    await bench.journal(requested(), Dispatched(response_id=response_id(1), attempt=1, worker="worker_1", mailbox=0))
    bench.hear(worker_beat("worker_1", slots=0), worker_beat("worker_2", mailbox=1))
    await bench.advance(1_000)
    assert bench.jobs == []
    await bench.advance(1_500)
    assert [job.attempt for job in bench.jobs] == [2]


async def test_a_public_terminal_is_final_nothing_more_is_said() -> None:
    log = await past(requested(), claimed(), tokens(TEXT, finish="stop"))
    before = len(log.of(EVENTS))
    bench = successor(log)
    await bench.start()
    await bench.advance(2_000)
    assert len(bench.events()) == before
    assert len(bench.jobs) == 1, "only the first owner's"
    assert bench.owner.low_watermarks() == {PARTITION: log.end(JOURNAL, PARTITION)}


async def test_a_request_that_no_owner_had_accepted_is_accepted_in_the_new_epoch() -> None:
    log = await past(requested(), upto=0)
    bench = successor(log)
    await bench.start()
    accepted = next(e for e in bench.events() if isinstance(e, Accepted))
    assert accepted.epoch == SECOND
    assert public(bench).accepted == accepted


async def test_a_cut_between_the_journal_and_the_public_log_ends_alike() -> None:
    text = f"Look at that {CUT_PHRASE} over there, it is huge!"
    log = await past(requested(), claimed(), tokens(text), upto=2)
    assert len(log.of(JOURNAL, Cut)) == 1
    bench = successor(log)
    await bench.start()
    end = public(bench).terminal
    assert isinstance(end, Incomplete)
    assert (end.reason, end.text) == ("content_filter", "Look at that ")
    assert len(log.of(JOURNAL, Cut)) == 1


async def test_a_refusal_is_told_again_because_the_first_owner_may_have_died_before_it_said_so() -> None:
    log = await past(requested(text=REFUSE_PHRASE))
    bench = successor(log)
    await bench.start()
    assert [reply.status for reply in log.of(REPLIES, Rejected)] == [400, 400]
    assert [kind for kind in bench.kinds() if kind != "Screening"] == []


async def test_a_rebuilt_owner_gives_every_worker_its_full_time_again() -> None:
    log = await past(requested(), claimed(), tokens("Once"))
    log.now_ms += 300_000
    bench = successor(log)
    await bench.start()
    await bench.advance(800)
    assert len(log.of(JOURNAL, Dispatched)) == 1
    bench.silence("worker_1")
    bench.hear(worker_beat("worker_2", mailbox=1))
    await bench.advance(1_600)
    assert [d.attempt for d in log.of(JOURNAL, Dispatched)] == [1, 2]


async def test_nobody_is_judged_before_anybody_was_heard() -> None:
    """Without a heartbeat there is no clock: the first one must not look like ages of silence."""
    log = await past(requested(), claimed(), tokens("Once"))
    bench = OwnerBench(log, service_id="moderation_2", generation=2)
    await bench.owner.take_over({PARTITION: (0, log.end(JOURNAL, PARTITION))}, generation=2)
    await bench.pump()
    await bench.tick()
    bench.hear(worker_beat("worker_2", mailbox=1))
    await bench.tick()
    await bench.tick()
    bench.hear(gateway_beat(), worker_beat(claims=["claim_a"]))
    await bench.advance(600)
    assert log.of(JOURNAL, Cancel) == []
    assert [d.attempt for d in log.of(JOURNAL, Dispatched)] == [1]


async def test_below_the_end_of_the_journal_only_others_acts_are_folded() -> None:
    """Until it has caught up, an owner neither publishes nor stops nor dispatches."""
    log = await past(requested(1), claimed(1), tokens("Once"), upto=1)
    sent = len(log.order)
    bench = successor(log)
    await bench.owner.take_over({PARTITION: (0, log.end(JOURNAL, PARTITION))}, generation=2)
    await bench.owner.on_records(log.read(JOURNAL, PARTITION)[:-1])
    await bench.owner.tick()
    assert len(log.order) == sent
    await bench.owner.on_records(log.read(JOURNAL, PARTITION)[-1:])
    assert len(log.order) > sent


async def test_after_a_partition_is_dropped_nothing_of_it_is_published() -> None:
    bench = OwnerBench()
    bench.hear(gateway_beat(), worker_beat())
    await bench.start()
    await bench.journal(requested(), claimed())
    await bench.owner.drop([PARTITION])
    before = len(bench.log.order)
    await bench.owner.on_records([])
    bench.log.append(JOURNAL, tokens(TEXT, finish="stop"))
    await bench.pump()
    await bench.advance(3_000)
    assert len(bench.log.order) == before + 1, "only the worker's own record"
    assert bench.owner.low_watermarks() == {}


# -- the low watermark ---------------------------------------------------------------------------------------------


async def test_the_low_watermark_is_the_oldest_unended_request() -> None:
    bench = OwnerBench()
    bench.hear(gateway_beat(), worker_beat())
    await bench.start()
    await bench.journal(requested(1), claimed(1, "claim_1"), requested(2), claimed(2, "claim_2"))
    offsets = {r.key: r.offset for r in reversed(bench.log.read(JOURNAL, PARTITION))}
    assert bench.owner.low_watermarks() == {PARTITION: offsets[response_id(1)]}
    bench.owner.committed(PARTITION, offsets[response_id(1)])
    assert bench.owner.low_watermarks() == {}, "it did not move"
    await bench.journal(tokens("Hi", number=1, claim="claim_1", finish="stop"))
    await bench.tick()
    assert bench.owner.low_watermarks() == {PARTITION: offsets[response_id(2)]}
    await bench.journal(tokens("Hi", number=2, claim="claim_2", finish="stop"))
    await bench.tick()
    assert bench.owner.low_watermarks() == {PARTITION: bench.log.end(JOURNAL, PARTITION)}


async def test_an_end_that_is_not_acknowledged_yet_still_counts_as_unended() -> None:
    bench = OwnerBench()
    bench.hear(gateway_beat(), worker_beat())
    await bench.start()
    await bench.journal(requested(), claimed())
    bench.writer.slow = True
    await bench.journal(tokens("Hi", finish="stop"))
    await bench.tick()
    assert bench.owner.low_watermarks() == {PARTITION: 0}
    bench.writer.acknowledge()
    await settle()  # verdicts first, then what they let out
    await bench.tick()
    assert bench.owner.low_watermarks() == {PARTITION: bench.log.end(JOURNAL, PARTITION)}


async def test_a_redelivered_request_of_an_ended_response_does_not_restart_it() -> None:
    bench = OwnerBench()
    bench.hear(gateway_beat(), worker_beat())
    await bench.start()
    await bench.journal(requested(), claimed(), tokens("Hi", finish="stop"))
    await bench.tick()
    await bench.journal(requested())
    await bench.advance(3_000)
    assert bench.kinds() == ["Accepted", "Delta", "Completed"]
    assert len(bench.jobs) == 1


# -- failed appends ------------------------------------------------------------------------------------------------


def once(topic: Topic, kind: type[Record]) -> Callable[[Topic, Record], bool]:
    left = [1]

    def fails(where: Topic, record: Record) -> bool:
        if where is topic and isinstance(record, kind) and left:
            left.pop()
            return True
        return False

    return fails


async def interrupted(kind: type[Record], topic: Topic = EVENTS) -> OwnerBench:
    bench = OwnerBench()
    bench.hear(gateway_beat(), worker_beat(claims=["claim_a"]))
    await bench.start()
    bench.writer.fails = once(topic, kind)
    await bench.together(requested())
    await bench.journal(claimed(), *(tokens(TEXT[i : i + 9], i) for i in range(0, len(TEXT), 9)))
    await bench.journal(tokens("", len(TEXT), finish="stop"))
    return bench


@pytest.mark.parametrize("kind", [Accepted, Delta, Completed])
async def test_a_failed_append_breaks_the_partition_and_a_higher_epoch_heals_it(kind: type[Record]) -> None:
    bench = await interrupted(kind)
    assert await bench.tick() == [PARTITION]
    await bench.tick()
    fold = public(bench)
    assert fold.epoch == FIRST + 1
    assert isinstance(fold.terminal, Completed)
    assert fold.text == fold.terminal.text == TEXT
    assert await bench.tick() == []


@pytest.mark.parametrize("kind", [Accepted, Delta])
async def test_nothing_more_is_published_in_a_broken_partition(kind: type[Record]) -> None:
    """What is public there is unknown: a delta behind a lost one, or an end behind it, would be a lie."""
    bench = await interrupted(kind)
    assert "Completed" not in bench.kinds()
    assert bench.owner.low_watermarks() == {}, "a successor must start before what was lost"


async def test_a_failed_fence_is_tried_again_with_the_next_tick() -> None:
    log = await past(requested(), claimed(), tokens(TEXT, finish="stop"), upto=1)
    bench = successor(log)
    bench.writer.fails = once(EVENTS, Screening)
    await bench.start()
    assert "Completed" not in bench.kinds()
    await bench.tick()
    await bench.tick()
    assert public(bench).text == TEXT
    assert isinstance(public(bench).terminal, Completed)


async def test_a_broker_that_cannot_be_read_delays_the_takeover() -> None:
    log = await past(requested(), claimed(), tokens(TEXT, finish="stop"), upto=1)
    bench = successor(log)
    bench.replayer.failure = BrokerUnavailableError("away")
    await bench.start()
    await bench.tick()
    assert "Completed" not in bench.kinds()
    bench.replayer.failure = None
    await bench.tick()
    await bench.tick()
    assert isinstance(public(bench).terminal, Completed)


async def test_a_writer_that_takes_nothing_more_is_a_failed_append() -> None:
    bench = OwnerBench()
    bench.hear(gateway_beat(), worker_beat(claims=["claim_a"]))
    await bench.start()
    await bench.journal(requested(), claimed())
    bench.writer.full = True
    await bench.journal(tokens(TEXT, finish="stop"))
    bench.writer.full = False
    await bench.tick()
    await bench.tick()
    assert public(bench).text == TEXT
    assert isinstance(public(bench).terminal, Completed)


# -- what cannot be handled ----------------------------------------------------------------------------------------

BAD_VALUES = {
    "no json": (response_id(9), b"{oops}"),
    "unknown type": (response_id(9), b'{"type":"dance","response_id":"x"}'),
    "missing field": (response_id(9), b'{"type":"claimed","response_id":"x"}'),
    "not an id": (
        "resp_x",
        b'{"type":"requested","response_id":"resp_x","tenant":"t","spec":{"model":"m","input":[]},'
        b'"created_ms":1,"deadline_ms":2,"input_tokens":3}',
    ),
}


@pytest.mark.parametrize("name", BAD_VALUES)
async def test_an_unreadable_record_goes_to_the_dead_letters_and_the_next_one_is_handled(name: str) -> None:
    key, value = BAD_VALUES[name]
    bench = OwnerBench()
    bench.hear(gateway_beat(), worker_beat())
    await bench.start()
    bench.log.append_raw(JOURNAL, PARTITION, key, value)
    await bench.journal(requested())
    (letter,) = bench.log.dead_letters(JOURNAL)
    assert (letter.origin_topic, letter.origin_partition, letter.origin_offset) == (JOURNAL.name, PARTITION, 0)
    assert (letter.key, letter.value, letter.service) == (key, value.decode(), "moderation")
    assert letter.error
    assert bench.kinds() == ["Accepted"]


async def test_a_record_in_the_wrong_partition_goes_to_the_dead_letters() -> None:
    """The id names the partition; whoever wrote it elsewhere would get an owner that cannot publish for it."""
    stray = requested(response_id=response_id(1, partition=PARTITION + 1))
    bench = OwnerBench()
    bench.hear(gateway_beat(), worker_beat())
    await bench.start()
    bench.log.append_raw(JOURNAL, PARTITION, stray.response_id, encode_value(stray))
    await bench.journal(requested())
    assert [letter.key for letter in bench.log.dead_letters(JOURNAL)] == [stray.response_id]
    assert bench.kinds() == ["Accepted"]


async def test_a_dead_letter_that_could_not_be_written_breaks_the_partition() -> None:
    bench = OwnerBench()
    bench.hear(gateway_beat(), worker_beat())
    await bench.start()
    bench.writer.fails = lambda topic, _record: topic is DEAD_LETTERS[JOURNAL.name]
    bench.log.append_raw(JOURNAL, PARTITION, "x", b"{oops}")
    await bench.pump()
    assert bench.owner.low_watermarks() == {}
    bench.writer.fails = lambda _topic, _record: False
    assert await bench.tick() == [PARTITION]
    await bench.tick()
    (letter,) = bench.log.dead_letters(JOURNAL)
    assert letter.origin_offset == 0, "what could not be handled is not forgotten"
    assert bench.owner.low_watermarks() == {PARTITION: 1}


async def test_a_dead_letter_that_no_broker_ever_takes_holds_nothing_up(caplog: pytest.LogCaptureFixture) -> None:
    """It would break the partition again each time that it is taken over."""
    bench = OwnerBench()
    bench.hear(gateway_beat(), worker_beat())
    await bench.start()
    bench.writer.refuses = lambda topic, _record: topic is DEAD_LETTERS[JOURNAL.name]
    bench.log.append_raw(JOURNAL, PARTITION, "x", b"{oops}")
    await bench.pump()
    assert await bench.tick() == []
    assert bench.owner.low_watermarks() == {PARTITION: 1}
    assert f"responses.journal {PARTITION}/0 has no dead letter, look for it there" in caplog.text
    assert bench.writer.lost == [JOURNAL.name]


async def test_tokens_of_a_response_that_nobody_requested_are_nobodys() -> None:
    bench = OwnerBench()
    bench.hear(gateway_beat(), worker_beat())
    await bench.start()
    await bench.journal(Tokens(response_id=response_id(8), claim="c", position=0, ids=[1], pieces=["x"]))
    assert bench.events() == []
