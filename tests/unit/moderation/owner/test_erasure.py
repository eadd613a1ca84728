"""A tenant's `delete` becomes `deleted` in public, behind the response's end, whoever owns the partition by then."""

from shared.folds import EventFold
from shared.records import Accepted, Cancel, Completed, Delete, Deleted, Delta
from shared.topics import EVENTS, JOURNAL
from tests.support.owner_bench import (
    OwnerBench,
    claimed,
    gateway_beat,
    requested,
    response_id,
    tokens,
    worker_beat,
)

DELETE = Delete(response_id=response_id(1), tenant="acme")
ENDED = (requested(), claimed(), tokens("Hi", finish="stop"))


async def started(log: object = None, *, generation: int = 1) -> OwnerBench:
    bench = OwnerBench(log, generation=generation)  # type: ignore[arg-type]
    bench.hear(gateway_beat(), worker_beat())
    await bench.start()
    return bench


async def test_an_ended_response_is_deleted_however_long_ago_it_ended() -> None:
    bench = await started()
    await bench.journal(*ENDED)
    await bench.tick()
    await bench.journal(DELETE)
    assert bench.kinds() == ["Accepted", "Delta", "Completed", "Deleted"]
    assert bench.events()[-1].tenant == "acme"
    await bench.tick()
    assert bench.owner.low_watermarks() == {3: bench.log.end(JOURNAL, 3)}


async def test_a_response_that_this_owner_never_knew_is_deleted_too() -> None:
    bench = await started()
    await bench.journal(Delete(response_id=response_id(9), tenant="acme"))
    assert bench.kinds(9) == ["Deleted"]


async def test_it_stands_behind_the_end_that_came_in_the_same_batch() -> None:
    bench = await started()
    await bench.together(requested(), claimed(), tokens("Hi"), Cancel(response_id=response_id(1)), DELETE)
    assert bench.kinds()[-2:] == ["Cancelled", "Deleted"]


async def test_a_response_that_has_not_ended_is_not_deleted() -> None:
    bench = await started()
    await bench.journal(requested(), claimed(), DELETE, tokens("Hi", finish="stop"))
    assert bench.kinds() == ["Accepted", "Delta", "Completed"]


async def test_a_successor_deletes_what_was_not_acknowledged() -> None:
    first = await started()
    await first.journal(*ENDED)
    await first.tick()
    await first.owner.drop([first.partition])
    first.log.append(JOURNAL, DELETE)
    second = await started(first.log, generation=2)
    await second.tick()
    kinds = [type(record).__name__ for record in first.log.of(EVENTS)]
    assert kinds == ["Accepted", "Delta", "Completed", "Deleted"]
    fold = EventFold()
    for record in first.log.of(EVENTS):
        fold.apply(record)
    assert fold.deleted


async def test_it_holds_the_watermark_until_it_is_acknowledged() -> None:
    bench = await started()
    await bench.journal(*ENDED)
    await bench.tick()
    offset = bench.log.end(JOURNAL, 3)
    bench.writer.slow = True
    bench.log.append(JOURNAL, DELETE)
    await bench.owner.on_records(bench.log.read(JOURNAL, bench.partition)[-1:])
    assert bench.owner.low_watermarks().get(3, offset) == offset
    bench.writer.acknowledge()
    await bench.tick()
    assert bench.owner.low_watermarks() == {3: offset + 1}


async def test_a_request_for_no_output_is_screened_accepted_and_completed_with_an_empty_text() -> None:
    bench = await started()
    await bench.journal(requested(generate=False))
    accepted, end = bench.events()
    assert isinstance(accepted, Accepted)
    assert isinstance(end, Completed)
    assert (end.text, end.usage.input_tokens, end.usage.output_tokens) == ("", 5, 0)
    assert bench.jobs == []
    assert not [event for event in bench.events() if isinstance(event, Delta | Deleted)]


async def test_a_request_for_no_output_needs_no_slot_and_is_not_turned_away() -> None:
    bench = OwnerBench(max_waiting=1)
    bench.hear(gateway_beat())
    await bench.start()
    await bench.journal(requested(1), requested(2, generate=False))
    assert bench.kinds(2) == ["Accepted", "Completed"]
