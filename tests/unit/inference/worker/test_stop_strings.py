"""Stop strings in the worker: the finish is written, the slot is free, and what the engine still says is nobody's."""

import pytest

from services.inference.engines.port import Likelihood, StepOutput
from shared.folds import JournalFold
from shared.records import Record, Sampling, Stop, Tokens
from shared.topics import JOURNAL, Topic
from tests.support.fakes import settle
from tests.support.owner_bench import response_id
from tests.unit.inference.worker.bench import WorkerBench, by_another, job

R = response_id(1)
TEXT = "One, two, three, four"


def stopping(*stops: str, attempt: int = 1, number: int = 1, logprobs: int | None = None) -> object:
    return job(number, attempt, sampling=Sampling(temperature=0.0, stop=list(stops), logprobs=logprobs))


def folded(bench: WorkerBench) -> JournalFold:
    """What any reader makes of the journal."""
    fold = JournalFold()
    for record in bench.log.of(JOURNAL):
        fold.apply(record)
    return fold


async def test_the_answer_ends_before_its_stop_string(bench: WorkerBench) -> None:
    bench.past()
    await bench.mail(stopping(" three"))
    claim, ids = bench.claim, bench.tokenizer.encode_text(TEXT)
    for token in ids:
        await bench.say(claim, [token])
        assert "One, two, three".startswith(folded(bench).text)
        assert " t" not in folded(bench).text[5:]
    fold = folded(bench)
    assert (fold.text, fold.decision.reason) == ("One, two,", "stop")  # type: ignore[union-attr]
    assert bench.tokenizer.decode(fold.ids) == "One, two, three", "the ids end with the one that completes it"
    assert (bench.engine.cancelled, bench.engine.running, bench.free) == ([claim], {}, 2)
    assert (bench.heart.says["claims"], bench.released) == ([], [])


async def test_a_step_of_several_tokens_ends_at_the_one_that_completes_the_string(bench: WorkerBench) -> None:
    bench.past()
    await bench.mail(stopping("two", logprobs=0))
    ids = bench.tokenizer.encode_text(TEXT)
    bench.worker.on_outputs([StepOutput(bench.claim, tuple(ids), logprobs=(Likelihood(0.0),) * len(ids))])
    await settle()
    (record,) = bench.written(Tokens)
    assert (bench.tokenizer.decode(record.ids), "".join(record.pieces)) == ("One, two", "One, ")
    assert len(record.logprobs) == len(record.ids) == len(record.pieces)


async def test_the_last_token_of_the_limit_can_complete_it(bench: WorkerBench) -> None:
    await bench.mail(stopping("two"))
    ids = bench.tokenizer.encode_text("One, two")
    await bench.say(bench.claim, ids, "length")
    (record,) = bench.written(Tokens)
    assert (record.finish.reason, record.pieces) == ("stop", [*record.pieces[:-1], " "])
    assert (bench.engine.cancelled, bench.free) == ([], 2), "the engine had ended by itself"


@pytest.mark.parametrize("finish", ["stop", "length"])
async def test_what_only_began_a_stop_string_belongs_to_the_text(bench: WorkerBench, finish: str) -> None:
    bench.past()
    await bench.mail(stopping(", four and more"))
    ids = bench.tokenizer.encode_text(TEXT) + ([min(bench.tokenizer.eos_ids)] if finish == "stop" else [])
    for token in ids[:-1]:
        await bench.say(bench.claim, [token])
    assert folded(bench).text == "One, two, three"
    await bench.say(bench.claim, ids[-1:], finish)
    assert folded(bench).text == TEXT
    last = bench.written(Tokens)[-1]
    assert (len(last.pieces), last.finish.reason) == (2, finish)


async def test_the_claim_stands_until_its_finish_does_and_the_slot_is_counted_once(bench: WorkerBench) -> None:
    await bench.mail(stopping("two"))
    claim = bench.claim
    bench.writer.slow = True
    bench.engine.hangs = True
    await bench.say(claim, bench.tokenizer.encode_text("One, two"))
    assert (bench.heart.says["claims"], bench.free) == ([claim], 1)
    bench.worker.on_outputs([StepOutput(claim, (11,)), StepOutput(claim, (12,), "cancelled")])
    await settle()
    assert (bench.heart.says["claims"], bench.free) == ([claim], 1)
    assert len(bench.log.of(JOURNAL, Tokens)) == 1, "what the engine says after the end is nobody's"
    bench.writer.acknowledge()
    await settle()
    assert (bench.heart.says["claims"], bench.free, bench.released) == ([], 2, [])


async def test_a_slot_that_is_slow_to_come_free_is_counted_after_the_claim_is_gone(bench: WorkerBench) -> None:
    await bench.mail(stopping("two"))
    claim = bench.claim
    bench.engine.hangs = True
    await bench.say(claim, bench.tokenizer.encode_text("One, two"))
    assert (bench.heart.says["claims"], bench.free) == ([], 1)
    bench.worker.on_outputs([StepOutput(claim, finish="length")])
    assert bench.free == 2


async def test_the_owners_stop_finds_nothing_left_to_do(bench: WorkerBench) -> None:
    await bench.mail(stopping("two"))
    claim = bench.claim
    bench.writer.slow = True
    await bench.say(claim, bench.tokenizer.encode_text("One, two"))
    await bench.mail(Stop(response_id=R, claim=claim))
    assert (bench.engine.cancelled, bench.free, bench.released) == ([claim], 2, [])
    bench.writer.acknowledge()
    await settle()
    assert bench.free == 2


async def test_a_finish_that_is_lost_releases_the_claim(bench: WorkerBench) -> None:
    def fails(topic: Topic, record: Record) -> bool:
        return topic is JOURNAL and isinstance(record, Tokens)

    await bench.mail(stopping("two"))
    bench.writer.fails = fails
    await bench.say(bench.claim, bench.tokenizer.encode_text("One, two"))
    assert [released.claim for released in bench.released] == [bench.claim]
    assert (bench.engine.cancelled, bench.free) == ([bench.claim], 2)


async def test_the_engines_death_after_the_end_is_not_the_answers(bench: WorkerBench) -> None:
    await bench.mail(stopping("two"))
    bench.writer.slow = True
    bench.engine.hangs = True
    await bench.say(bench.claim, bench.tokenizer.encode_text("One, two"))
    bench.engine.die()
    await settle()
    bench.writer.acknowledge()
    await settle()
    assert (bench.released, bench.free, bench.engine.restarts) == ([], 2, 1)


@pytest.mark.parametrize("said", range(1, 6))
async def test_a_takeover_holds_back_what_the_first_worker_did(bench: WorkerBench, said: int) -> None:
    ids = bench.tokenizer.encode_text(TEXT)
    await bench.mail(stopping(", three"))
    for token in ids[:said]:
        await bench.say(bench.claim, [token])
    first = bench.written(Tokens)
    if first[-1].finish is not None:
        return
    other = WorkerBench(bench.tokenizer)
    other.past(*by_another(bench.tokenizer, [])[:1], *[_of(record, "claim_x") for record in first])
    await other.start()
    await other.mail(stopping(", three", attempt=2))
    for token in ids[said:]:
        await other.say(other.claim, [token])
    assert (folded(other).text, other.free) == ("One, two", 2)
    await other.stop()


async def test_a_takeover_that_finds_the_stop_string_said_owes_only_the_finish(bench: WorkerBench) -> None:
    """As when the finish was lost with what followed; the text before it stands in the journal already."""
    ids = bench.tokenizer.encode_text("One, two")
    claimed, tokens = by_another(bench.tokenizer, ids)
    assert isinstance(tokens, Tokens)
    shown = ["One", ",", *[""] * (len(ids) - 2)]
    bench.past(claimed, Tokens(response_id=R, claim="claim_x", position=0, ids=ids, pieces=shown))
    await bench.mail(stopping(" two", attempt=2))
    assert bench.engine.submitted == []
    assert (folded(bench).text, folded(bench).decision.reason) == ("One,", "stop")  # type: ignore[union-attr]
    assert bench.free == 2


def _of(record: Tokens, claim: str) -> Tokens:
    return Tokens(
        response_id=record.response_id, claim=claim, position=record.position, ids=record.ids, pieces=record.pieces
    )
