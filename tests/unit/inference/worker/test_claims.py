"""DESIGN 5.1 to 5.3: what is claimed, when, and where a takeover starts."""

import asyncio
import dataclasses

import pytest

from shared.chat import ChatTokenizer
from shared.errors import BrokerUnavailableError
from shared.records import Cancel, Claimed, Finish, Stop, Tokens
from shared.topics import JOBS, JOURNAL
from tests.support.fakes import settle
from tests.support.owner_bench import response_id
from tests.unit.inference.worker.bench import MAILBOX, PROMPT, WorkerBench, by_another, job

R = response_id(1)


# -- the first attempt ---------------------------------------------------------------------------------------------


async def test_a_claim_stands_before_its_tokens_and_names_where_to_send_a_stop(bench: WorkerBench) -> None:
    await bench.mail(job())
    await bench.say(bench.claim, bench.tokenizer.encode_text("Hello"))
    claimed, tokens = bench.log.of(JOURNAL)
    assert (type(claimed), type(tokens)) == (Claimed, Tokens)
    assert (claimed.worker, claimed.mailbox, claimed.attempt) == ("worker_1", MAILBOX, 1)
    assert (claimed.model, claimed.revision) == ("m", "rev-1")
    assert tokens.claim == claimed.claim
    assert tokens.position == 0


async def test_the_engine_gets_the_rendered_prompt_and_the_asked_sampling(bench: WorkerBench) -> None:
    await bench.mail(job(max_output_tokens=7))
    (request,) = bench.engine.submitted
    assert list(request.prompt_ids) == bench.tokenizer.encode([{"role": "user", "content": PROMPT[0].text}])
    assert (request.max_new_tokens, request.temperature, request.primed_ids) == (7, 0.0, ())
    assert request.eos_ids == bench.tokenizer.eos_ids


async def test_without_a_limit_the_window_is_the_limit(bench: WorkerBench) -> None:
    await bench.mail(job())
    (request,) = bench.engine.submitted
    assert len(request.prompt_ids) + request.max_new_tokens == bench.tokenizer.context_window


async def test_a_job_is_committed_once_its_claim_is_acknowledged(bench: WorkerBench) -> None:
    bench.writer.slow = True
    bench.log.append(JOBS, job(), MAILBOX)
    delivering = asyncio.ensure_future(bench.deliver())
    await settle()
    assert bench.written(Claimed)
    assert bench.mailbox.commits == []
    bench.writer.acknowledge()
    await delivering
    assert bench.mailbox.commits == [(MAILBOX, 1)]


async def test_a_job_that_comes_twice_is_claimed_once(bench: WorkerBench) -> None:
    await bench.mail(job(), job())
    await bench.redeliver()
    assert len(bench.written(Claimed)) == 1
    assert len(bench.engine.submitted) == 1
    assert bench.mailbox.commits[-1] == (MAILBOX, 2)


async def test_a_job_beyond_its_deadline_is_dropped_and_committed(bench: WorkerBench) -> None:
    await bench.mail(job(1, deadline_ms=1), job(2))
    assert bench.written(Claimed, 1) == []
    assert len(bench.written(Claimed, 2)) == 1
    assert bench.mailbox.commits == [(MAILBOX, 2)]


async def test_heartbeats_name_the_claims_and_count_the_slots(bench: WorkerBench) -> None:
    await bench.mail(job(1))
    assert bench.heart.says["claims"] == [bench.claim]
    assert bench.free == 1
    assert bench.heart.says["partitions"] == [MAILBOX]


async def test_what_the_engine_cannot_hold_is_claimed_and_released(bench: WorkerBench) -> None:
    await bench.mail(job(1), job(2), job(3))
    assert len(bench.engine.running) == 2
    (released,) = bench.released
    assert (released.response_id, released.worker) == (response_id(3), "worker_1")
    assert [released.claim] == [c.claim for c in bench.written(Claimed, 3)]
    assert bench.free == 0
    assert bench.mailbox.commits == [(MAILBOX, 3)]


async def test_a_prompt_that_fills_the_window_ends_by_length_without_the_engine(tokenizer: ChatTokenizer) -> None:
    prompt_tokens = tokenizer.count([{"role": "user", "content": PROMPT[0].text}])
    bench = await WorkerBench(dataclasses.replace(tokenizer, context_window=prompt_tokens)).start()
    await bench.mail(job())
    await bench.stop()
    (tokens,) = bench.written(Tokens)
    assert (tokens.ids, tokens.finish.reason) == ([], "length")
    assert bench.engine.submitted == []
    assert bench.free == 2


# -- takeovers -----------------------------------------------------------------------------------------------------


async def test_a_takeover_is_primed_with_what_was_said_and_starts_at_the_next_position(bench: WorkerBench) -> None:
    ids = bench.tokenizer.encode_text("Hello, how are you today?")
    bench.past(*by_another(bench.tokenizer, ids[:3]))
    await bench.mail(job(attempt=2, max_output_tokens=20))
    (request,) = bench.engine.submitted
    assert request.primed_ids == tuple(ids[:3])
    assert request.max_new_tokens == 17, "the limit counts what others said"
    await bench.say(bench.claim, ids[3:])
    tokens = bench.written(Tokens)[-1]
    assert (tokens.claim, tokens.position) == (bench.claim, 3)
    assert "".join(piece for record in bench.written(Tokens) for piece in record.pieces) == "Hello, how are you today?"


async def test_only_the_journal_up_to_the_own_claim_counts(bench: WorkerBench) -> None:
    """What the old claim still appends behind ours is ignored by every reader, so by us."""
    ids = bench.tokenizer.encode_text("Hello, how are you today?")
    claimed, tokens = by_another(bench.tokenizer, ids[:3])
    bench.past(claimed, tokens)
    late = Tokens(response_id=R, claim="claim_x", position=3, ids=ids[3:5], pieces=["", ""])
    bench.replayer.before_read = lambda: bench.past(late)
    await bench.mail(job(attempt=2))
    assert bench.engine.submitted[0].primed_ids == tuple(ids[:3])
    ((_, start, until),) = bench.replayer.asked
    assert (start, until) == (0, 3), "from the request to the own claim"


async def test_no_token_is_generated_before_the_journal_was_read(bench: WorkerBench) -> None:
    bench.past(*by_another(bench.tokenizer, bench.tokenizer.encode_text("Hello")))
    bench.writer.slow = True
    bench.log.append(JOBS, job(attempt=2), MAILBOX)
    delivering = asyncio.ensure_future(bench.deliver())
    await settle()
    assert bench.engine.submitted == []
    bench.writer.acknowledge()
    await delivering
    assert len(bench.engine.submitted) == 1


async def test_a_takeover_behind_the_last_token_writes_only_the_finish(bench: WorkerBench) -> None:
    ids = [*bench.tokenizer.encode_text("Hello"), min(bench.tokenizer.eos_ids)]
    bench.past(*by_another(bench.tokenizer, ids))
    await bench.mail(job(attempt=2))
    tokens = bench.written(Tokens)[-1]
    assert (tokens.claim, tokens.position, tokens.ids) == (bench.claim, len(ids), [])
    assert tokens.finish.reason == "stop"
    assert tokens.finish.input_tokens == bench.tokenizer.count([{"role": "user", "content": PROMPT[0].text}])
    assert (bench.engine.submitted, bench.free, bench.released) == ([], 2, [])


async def test_a_takeover_at_the_limit_says_what_the_decoder_held_back_and_the_finish(bench: WorkerBench) -> None:
    ids = bench.tokenizer.encode_text("A 🦜")[:-1]
    bench.past(*by_another(bench.tokenizer, ids))
    await bench.mail(job(attempt=2, max_output_tokens=len(ids)))
    tokens = bench.written(Tokens)[-1]
    assert (tokens.ids, tokens.finish.reason) == ([], "length")
    said = "".join(piece for record in bench.written(Tokens) for piece in record.pieces)
    assert said == bench.tokenizer.decode(ids)
    assert said.endswith("\ufffd")


@pytest.mark.parametrize("why", ["another claim was first", "the response ended", "it finished"])
async def test_a_superseded_claim_says_nothing(bench: WorkerBench, why: str) -> None:
    bench.past(*by_another(bench.tokenizer, [10, 11]))
    last = {
        "another claim was first": Claimed(response_id=R, claim="claim_y", attempt=2, worker="worker_y", mailbox=2),
        "the response ended": Cancel(response_id=R),
        "it finished": Tokens(
            response_id=R,
            claim="claim_x",
            position=2,
            ids=[],
            pieces=[],
            finish=Finish(reason="stop", input_tokens=1),
        ),
    }[why]
    bench.past(last)
    before = len(bench.log.of(JOURNAL))
    await bench.mail(job(attempt=2))
    assert [type(record) for record in bench.log.of(JOURNAL)[before:]] == [Claimed]
    assert (bench.engine.submitted, bench.free) == ([], 2)


async def test_a_journal_that_cannot_be_read_releases_the_claim(bench: WorkerBench) -> None:
    bench.past(*by_another(bench.tokenizer, [10, 11]))
    bench.replayer.failure = BrokerUnavailableError("away")
    await bench.mail(job(attempt=2))
    assert [released.attempt for released in bench.released] == [2]
    assert "away" in bench.released[0].reason
    assert (bench.engine.submitted, bench.free) == ([], 2)


async def test_a_stop_that_comes_during_the_takeover_is_obeyed(bench: WorkerBench) -> None:
    bench.past(*by_another(bench.tokenizer, [10, 11]))
    bench.writer.slow = True
    for record in (job(attempt=2), Stop(response_id=R)):
        bench.log.append(JOBS, record, MAILBOX)
    delivering = asyncio.ensure_future(bench.deliver())
    await settle()
    bench.writer.acknowledge()
    await delivering
    assert (bench.engine.submitted, bench.free) == ([], 2)
