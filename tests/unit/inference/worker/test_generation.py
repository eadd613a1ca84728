"""DESIGN 4.3, 5.4 and 5.5: tokens, ends, stops, failures, deaths."""

import asyncio

import pytest

from services.inference import worker
from services.inference.engines.port import EngineDeadError, Likelihood, StepOutput
from shared.folds import JournalFold
from shared.records import Claimed, Record, Released, Stop, Tokens
from shared.topics import JOBS, JOURNAL, Topic
from tests.support.fakes import settle
from tests.support.owner_bench import response_id
from tests.unit.inference.worker.bench import MAILBOX, WorkerBench, by_another, job

R = response_id(1)


def text_of(bench: WorkerBench) -> str:
    """What any reader folds out of the journal."""
    fold = JournalFold()
    for record in bench.log.of(JOURNAL):
        fold.apply(record)
    return fold.text


# -- tokens --------------------------------------------------------------------------------------------------------


async def test_only_whole_characters_are_written_and_the_end_of_turn_is_silent(bench: WorkerBench) -> None:
    text = "Grüße, 🦜 und 漢字!"
    bench.past()
    await bench.mail(job())
    ids = bench.tokenizer.encode_text(text)
    for token in ids:
        await bench.say(bench.claim, [token])
        assert "\ufffd" not in text_of(bench)
        assert text.startswith(text_of(bench))
    await bench.say(bench.claim, [min(bench.tokenizer.eos_ids)], "stop", cached_tokens=4)
    assert text_of(bench) == text
    records = bench.written(Tokens)
    assert [r.position for r in records] == list(range(len(ids) + 1))
    assert any(r.pieces == [""] for r in records[:-1]), "a piece is empty until its character is whole"
    assert records[-1].pieces == [""]
    assert (records[-1].finish.reason, records[-1].finish.cached_tokens) == ("stop", 4)


async def test_the_finish_rides_on_the_last_tokens_with_what_the_decoder_held_back(bench: WorkerBench) -> None:
    bench.past()
    ids = bench.tokenizer.encode_text("A 🦜")[:-1]
    await bench.mail(job(max_output_tokens=len(ids)))
    await bench.say(bench.claim, ids, "length")
    (record,) = bench.written(Tokens)
    assert (record.finish.reason, len(record.pieces)) == ("length", len(ids) + 1)
    assert text_of(bench) == bench.tokenizer.decode(ids)
    assert bench.free == 2


async def test_log_probabilities_are_of_the_text_and_not_of_the_end_of_the_turn(bench: WorkerBench) -> None:
    bench.past()
    await bench.mail(job())
    text = "A 🦜!"
    ids = (*bench.tokenizer.encode_text(text), min(bench.tokenizer.eos_ids))
    likely = tuple(Likelihood(-0.5, ((token, -0.5),)) for token in ids)
    bench.engine._deliver([StepOutput(bench.claim, ids, "stop", logprobs=likely)])
    await settle()
    (record,) = bench.written(Tokens)
    assert b"".join(bytes(said.bytes or ()) for said in record.logprobs).decode() == text
    assert record.logprobs[-1].end == len(text)
    assert [said.end for said in record.logprobs] == sorted(said.end for said in record.logprobs)


async def test_a_takeover_inside_a_character_completes_it(bench: WorkerBench) -> None:
    ids = bench.tokenizer.encode_text("A 🦜!")
    cut = next(n for n in range(1, len(ids)) if bench.tokenizer.decode(ids[:n]).endswith("\ufffd"))
    bench.past(*by_another(bench.tokenizer, ids[:cut]))
    await bench.mail(job(attempt=2))
    await bench.say(bench.claim, [*ids[cut:], min(bench.tokenizer.eos_ids)], "stop")
    assert text_of(bench) == "A 🦜!"


async def test_outputs_for_claims_that_are_not_held_are_nobodys(bench: WorkerBench) -> None:
    await bench.say("claim_unknown", [1, 2], "stop")
    assert bench.log.of(JOURNAL) == []


# -- stops ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [True, False])
async def test_a_stop_frees_the_slot_at_once_and_nothing_more_is_said(bench: WorkerBench, named: bool) -> None:
    await bench.mail(job())
    claim = bench.claim
    await bench.mail(Stop(response_id=R, claim=claim if named else None))
    assert bench.engine.cancelled == [claim]
    assert (bench.free, bench.heart.says["claims"]) == (2, [])
    bench.worker.on_outputs([StepOutput(claim, (1, 2)), StepOutput(claim, finish="cancelled")])
    assert (bench.written(Tokens), bench.released) == ([], [])
    assert bench.mailbox.commits[-1] == (MAILBOX, 2)


async def test_a_stop_for_another_claim_or_response_stops_nothing(bench: WorkerBench) -> None:
    await bench.mail(job(), Stop(response_id=R, claim="claim_old"), Stop(response_id=response_id(2)))
    assert (bench.engine.cancelled, bench.free) == ([], 1)


# -- failed appends ------------------------------------------------------------------------------------------------


def fails_tokens(topic: Topic, record: Record) -> bool:
    return topic is JOURNAL and isinstance(record, Tokens)


async def test_a_failed_append_releases_the_claim_once_and_frees_the_slot(bench: WorkerBench) -> None:
    await bench.mail(job())
    claim = bench.claim
    bench.writer.fails = fails_tokens
    bench.engine.say(claim, [1])
    bench.engine.say(claim, [2])
    await settle()
    assert [released.claim for released in bench.released] == [claim]
    assert (bench.engine.cancelled, bench.free) == ([claim], 2)
    bench.writer.fails = lambda _topic, _record: False
    bench.worker.on_outputs([StepOutput(claim, (3,))])
    assert bench.written(Tokens) == [], "what follows a lost record would leave a gap"


async def test_the_loss_of_the_last_record_releases_the_claim_too(bench: WorkerBench) -> None:
    await bench.mail(job())
    bench.writer.fails = fails_tokens
    await bench.say(bench.claim, [1, min(bench.tokenizer.eos_ids)], "stop")
    assert [released.claim for released in bench.released] == [bench.claim]
    assert bench.free == 2


async def test_the_loss_of_a_takeovers_finish_releases_the_claim_too(bench: WorkerBench) -> None:
    bench.past(*by_another(bench.tokenizer, [10, min(bench.tokenizer.eos_ids)]))
    bench.writer.fails = fails_tokens
    await bench.mail(job(attempt=2))
    assert [released.attempt for released in bench.released] == [2]
    assert bench.free == 2


async def test_a_claim_is_named_until_its_end_stands_in_the_log(bench: WorkerBench) -> None:
    await bench.mail(job())
    bench.writer.slow = True
    await bench.say(bench.claim, [min(bench.tokenizer.eos_ids)], "stop")
    assert bench.heart.says["claims"] == [bench.claim]
    bench.writer.acknowledge()
    await settle()
    assert (bench.heart.says["claims"], bench.released) == ([], [])


async def test_a_lost_claim_is_given_up_silently(bench: WorkerBench) -> None:
    """Nobody knows of it: the owner's watch sends the job anew."""
    bench.writer.fails = lambda _topic, record: isinstance(record, Claimed)
    await bench.mail(job())
    assert (bench.engine.running, bench.free, bench.released) == ({}, 2, [])
    assert bench.mailbox.commits == [(MAILBOX, 1)]


async def test_a_writer_that_takes_nothing_more_stops_the_generation_but_not_the_worker(bench: WorkerBench) -> None:
    await bench.mail(job(1))
    claim = bench.claim
    bench.writer.full = True
    await bench.say(claim, [1])
    await bench.mail(job(2))
    assert (bench.engine.running, bench.free) == ({}, 2)
    bench.writer.full = False
    await bench.mail(job(3))
    assert len(bench.written(Claimed, 3)) == 1


# -- the engine fails ----------------------------------------------------------------------------------------------


async def test_a_request_that_fails_is_released_and_the_others_go_on(bench: WorkerBench) -> None:
    await bench.mail(job(1), job(2))
    first, second = bench.engine.running
    bench.engine.fail(first, "out of cache")
    await settle()
    assert [(r.claim, r.reason) for r in bench.released] == [(first, "out of cache")]
    assert (list(bench.engine.running), bench.free, bench.engine.restarts) == ([second], 1, 0)


async def test_the_engines_death_releases_everything_and_restarts_it(bench: WorkerBench) -> None:
    await bench.mail(job(1), job(2))
    claims = set(bench.engine.running)
    bench.engine.die()
    await settle()
    assert {released.claim for released in bench.released} == claims
    assert (bench.engine.restarts, bench.engine.alive) == (1, True)
    await bench.mail(job(3))
    assert len(bench.engine.running) == 1


async def test_a_dead_engine_offers_no_slots_until_it_lives_again(bench: WorkerBench) -> None:
    """Else the owner would send the released jobs right back, and burn their attempts."""
    await bench.mail(job(1))
    bench.engine.may_restart.clear()
    bench.engine.die()
    await settle()
    assert bench.free == 0
    bench.engine.may_restart.set()
    await settle()
    assert bench.free == 2


async def test_a_death_that_nobody_heard_of_shows_with_the_next_job(bench: WorkerBench) -> None:
    bench.engine.die()
    await bench.mail(job())
    assert [released.response_id for released in bench.released] == [R]
    assert (bench.engine.restarts, bench.engine.alive, bench.free) == (1, True, 2)


async def test_an_engine_that_cannot_be_revived_ends_the_service(bench: WorkerBench) -> None:
    bench.engine.restart_error = EngineDeadError("out of memory")
    bench.engine.die()
    await bench.mail(job())
    with pytest.raises(EngineDeadError):
        await bench.watch
    assert bench.free == 0


async def test_a_slot_counts_as_free_once_the_engine_has_freed_it(bench: WorkerBench) -> None:
    await bench.mail(job(1), job(2))
    claim = bench.claim
    bench.engine.hangs = True
    await bench.mail(Stop(response_id=response_id(2)))
    assert (bench.free, claim in bench.heart.says["claims"]) == (0, False)
    await bench.mail(job(3))
    assert [(r.response_id, r.full) for r in bench.released] == [(response_id(3), True)]
    bench.worker.on_outputs([StepOutput(claim, finish="cancelled")])
    assert bench.free == 1


async def test_what_has_ended_in_the_engine_leaves_nothing_to_wait_for(bench: WorkerBench) -> None:
    await bench.mail(job())
    bench.writer.slow = True
    await bench.say(bench.claim, [min(bench.tokenizer.eos_ids)], "stop")
    draining = asyncio.ensure_future(bench.worker.drain(1))
    await settle()
    assert (bench.free, bench.engine.cancelled) == (2, [])
    bench.writer.acknowledge()
    await draining


async def test_an_engine_that_hangs_ends_the_service(bench: WorkerBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be sent one job after the other, each to stand there until its owner gives up on the worker."""
    monkeypatch.setattr(worker, "HUNG_AFTER_S", 0.05)
    watch = asyncio.create_task(bench.worker.keep_engine_alive())
    await bench.mail(job())
    bench.engine.hangs = True
    await bench.mail(Stop(response_id=R))
    with pytest.raises(EngineDeadError, match="it hangs"):
        await asyncio.wait_for(watch, 5)


# -- shutdown ------------------------------------------------------------------------------------------------------


async def test_a_drain_releases_everything_and_takes_nothing_new(bench: WorkerBench) -> None:
    await bench.mail(job(1), job(2))
    claims = set(bench.engine.running)
    await bench.worker.drain(1)
    await settle()
    assert bench.heart.says["state"] == "draining"
    assert {(r.claim, r.reason) for r in bench.released} == {(claim, "the worker shuts down") for claim in claims}
    assert (bench.engine.running, bench.free) == ({}, 2)
    await bench.mail(job(3))
    assert [r.response_id for r in bench.released][2:] == [response_id(3)]
    bench.engine.die()
    await settle()
    assert bench.engine.restarts == 0


async def test_released_says_which_attempt_of_whom(bench: WorkerBench) -> None:
    await bench.mail(job())
    await bench.worker.drain(1)
    (released,) = bench.log.of(JOURNAL, Released)
    assert (released.response_id, released.attempt, released.worker) == (R, 1, "worker_1")


async def test_a_drain_waits_for_claims_that_are_on_their_way(bench: WorkerBench) -> None:
    bench.past(*by_another(bench.tokenizer, [10, 11]))
    bench.writer.slow = True
    bench.log.append(JOBS, job(attempt=2), MAILBOX)
    delivering = asyncio.ensure_future(bench.deliver())
    await settle()
    draining = asyncio.ensure_future(bench.worker.drain(1))
    await settle()
    assert not draining.done()
    bench.writer.acknowledge()
    await draining
    await delivering
    assert [released.attempt for released in bench.released] == [2]
    assert bench.engine.submitted == []


async def test_a_drain_ends_when_its_releases_stand_in_the_log(bench: WorkerBench) -> None:
    """What follows is that the worker leaves the group, and then nobody's mail is read for a while."""
    await bench.mail(job())
    bench.writer.slow = True
    draining = asyncio.ensure_future(bench.worker.drain(1))
    await settle()
    assert (len(bench.released), draining.done()) == (1, False)
    bench.writer.acknowledge()
    await draining


async def test_generations_go_on_until_others_can_know_of_the_drain(bench: WorkerBench) -> None:
    """Released before, the job could come right back: the owner would go by the last heartbeat."""
    await bench.mail(job())
    claim = bench.claim
    bench.heart.may_beat.clear()
    draining = asyncio.ensure_future(bench.worker.drain(1))
    await settle()
    await bench.say(claim, [1])
    assert (len(bench.written(Tokens)), bench.released) == (1, [])
    await bench.mail(job(2))
    assert [(r.response_id, r.full) for r in bench.released] == [(response_id(2), True)]
    bench.heart.may_beat.set()
    await draining
    assert [r.claim for r in bench.released][1:] == [claim]
