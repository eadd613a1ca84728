"""What came to nothing gives its conversation's lock back: history hears it from the owner, and from nobody else."""

from typing import Any

import pytest

from shared.records import Cancel, Cut, Rejected, ReleaseConversation, Requested
from shared.topics import HISTORY_QUERIES, JOURNAL, REPLIES
from tests.support.owner_bench import OwnerBench, claimed, gateway_beat, requested, response_id, tokens, worker_beat
from tests.support.policies import REFUSE_PHRASE

CONVERSATION = "conv_1"
RELEASE = ReleaseConversation(conversation_id=CONVERSATION, response_id=response_id(1), tenant="acme")


def held(number: int = 1, text: str = "Hello", **changes: Any) -> Requested:
    """A request that holds the conversation's lock."""
    return requested(number, text, conversation=CONVERSATION, **changes)


def refused(**changes: Any) -> Requested:
    return held(text=f"Take me to the {REFUSE_PHRASE}", **changes)


async def started(log: Any = None, *, generation: int = 1, **settings: Any) -> OwnerBench:
    bench = OwnerBench(log, generation=generation, **settings)
    bench.hear(gateway_beat(), worker_beat(slots=1))
    await bench.start()
    return bench


def releases(bench: OwnerBench) -> list[ReleaseConversation]:
    return bench.log.of(HISTORY_QUERIES, ReleaseConversation)


async def test_refused_input_is_released_before_its_cut_and_its_reply() -> None:
    bench = await started()
    await bench.journal(refused())
    written = [topic.name for topic, _ in bench.log.order if topic in (HISTORY_QUERIES, REPLIES, JOURNAL)]
    assert written == [JOURNAL.name, HISTORY_QUERIES.name, REPLIES.name, JOURNAL.name]
    assert releases(bench) == [RELEASE]


async def test_it_is_released_though_no_gateway_waits() -> None:
    bench = await started()
    await bench.journal(refused(reply_to=None))
    assert releases(bench) == [RELEASE]
    assert bench.log.of(REPLIES, Rejected) == []


@pytest.mark.parametrize("request_", [requested(text=REFUSE_PHRASE), held()], ids=["no conversation", "no refusal"])
async def test_nothing_else_is_released(request_: Requested) -> None:
    bench = await started()
    await bench.journal(request_, claimed(), tokens("Hi", finish="stop"))
    assert releases(bench) == []


async def test_who_is_turned_away_is_released_once_the_journal_has_decided_it() -> None:
    """Another owner may have room for it: until the cut is read, the response may still be accepted."""
    bench = OwnerBench(max_waiting=1)
    bench.hear(gateway_beat())
    await bench.start()
    await bench.journal(requested(2))
    bench.log.append(JOURNAL, held())
    await bench.owner.on_records(bench.log.read(JOURNAL, bench.partition)[-1:])
    assert isinstance(bench.log.of(JOURNAL)[-1], Cut)
    assert releases(bench) == []
    await bench.pump()
    assert releases(bench) == [RELEASE]


async def test_what_was_cancelled_before_it_was_screened_is_accepted_and_so_released_by_its_end() -> None:
    bench = await started()
    await bench.together(held(), Cancel(response_id=response_id(1)))
    assert bench.kinds() == ["Accepted", "Cancelled"]
    assert releases(bench) == []


@pytest.mark.parametrize("request_", [refused(), held()], ids=["refused", "turned away"])
async def test_a_successor_releases_what_was_not_acknowledged(request_: Requested) -> None:
    first = OwnerBench(max_waiting=1)
    first.hear(gateway_beat())
    await first.start()
    await first.journal(requested(2))
    first.writer.fails = lambda topic, _record: topic is HISTORY_QUERIES
    await first.journal(request_)
    assert releases(first) == []
    second = await started(first.log, generation=2)
    assert releases(second) == [RELEASE]
    assert second.kinds(1) == ["Screening"], "the mark of its takeover, and nothing else"


async def test_the_watermark_waits_for_the_release() -> None:
    bench = await started()
    bench.writer.slow = True
    await bench.journal(refused())
    await bench.tick()
    assert bench.owner.low_watermarks() == {3: 0}
    bench.writer.acknowledge()
    await bench.tick()
    assert bench.owner.low_watermarks() == {3: bench.log.end(JOURNAL, 3)}


async def test_an_owner_whose_release_failed_takes_the_partition_over_anew_and_releases() -> None:
    bench = await started()
    bench.writer.fails = lambda topic, _record: topic is HISTORY_QUERIES
    await bench.journal(refused())
    bench.writer.fails = lambda _topic, _record: False
    assert await bench.tick() == [bench.partition]
    assert releases(bench) == [RELEASE]


@pytest.mark.parametrize("forgotten", [False, True])
async def test_a_request_that_comes_again_took_the_lock_again(forgotten: bool) -> None:
    bench = await started()
    await bench.journal(refused())
    if forgotten:
        await bench.tick()
    await bench.journal(refused())
    assert releases(bench) == [RELEASE, RELEASE]
    assert len(bench.log.of(REPLIES, Rejected)) == 1, "its gateway was told"
    await bench.tick()
    assert bench.owner.low_watermarks() == {3: bench.log.end(JOURNAL, 3)}


async def test_a_request_of_an_ended_response_that_comes_again_is_no_owners_to_release() -> None:
    """Its terminal stands in the public log, where history finds it."""
    bench = await started()
    await bench.journal(held(), claimed(), tokens("Hi", finish="stop"))
    await bench.tick()
    await bench.journal(held())
    assert releases(bench) == []
