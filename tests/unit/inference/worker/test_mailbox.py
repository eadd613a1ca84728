"""DESIGN 8.6: whatever lies in the mailbox, it ends right, and neither blocks what follows nor ends the worker."""

import dataclasses
import logging

import pytest

from services.inference import mailbox
from services.inference.engines.port import StepOutput
from shared import patience
from shared.chat import ChatTemplateError, ChatTokenizer
from shared.records import Claimed, DeadLetter, Record, Sampling, Stop, Tokens
from shared.topics import JOBS, Topic
from tests.support.fakes import settle
from tests.support.owner_bench import response_id
from tests.unit.inference.worker.bench import MAILBOX, PROMPT, WorkerBench, by_another, job

R = response_id(1)


@pytest.fixture
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries come at once."""
    monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 0.001)


# -- what cannot be read -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        b"{oops}",
        b'{"type":"dance","response_id":"x"}',
        b'{"type":"job","response_id":"x"}',
        b'{"type":"job","response_id":"resp_x","attempt":1,"prompt":[],"sampling":{},"deadline_ms":9999999999999,'
        b'"model":"m","journal_offset":0}',
    ],
)
async def test_unreadable_mail_goes_to_the_dead_letters_and_the_next_job_is_claimed(
    bench: WorkerBench, value: bytes
) -> None:
    bench.log.append_raw(JOBS, MAILBOX, "x", value)
    await bench.mail(job())
    (letter,) = bench.log.dead_letters(JOBS)
    assert (letter.origin_partition, letter.origin_offset, letter.value) == (MAILBOX, 0, value.decode())
    assert len(bench.written(Claimed)) == 1
    assert bench.mailbox.commits == [(MAILBOX, 2)]


async def test_a_prompt_that_the_template_refuses_is_released_and_the_next_job_is_claimed(
    bench: WorkerBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = ChatTokenizer.encode

    def strict(self: ChatTokenizer, messages: list[dict[str, str]], **options: bool) -> list[int]:
        if messages[0]["role"] == "assistant":
            raise ChatTemplateError("conversation roles must alternate")
        return encode(self, messages, **options)

    monkeypatch.setattr(ChatTokenizer, "encode", strict)
    refused = [type(PROMPT[0])(role="assistant", parts=["Hi"])]
    await bench.mail(job(1, prompt=refused), job(2))
    assert [(r.response_id, "alternate" in r.reason) for r in bench.released] == [(R, True)]
    assert len(bench.written(Claimed, 2)) == 1
    assert (len(bench.engine.running), bench.free) == (1, 1)


async def test_what_the_engine_refuses_is_released(bench: WorkerBench) -> None:
    await bench.mail(job(sampling=Sampling(temperature=-1.0)))
    assert len(bench.released) == 1
    assert "temperature" in bench.released[0].reason
    assert bench.free == 2


class Refusal:
    """The broker takes no dead letters, the first `times` times."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self, _topic: Topic, record: Record) -> bool:
        refused = isinstance(record, DeadLetter) and self.left > 0
        self.left -= refused
        return refused


async def test_a_dead_letter_that_fails_is_tried_again_before_the_commit(
    bench: WorkerBench, no_delay: None, caplog: pytest.LogCaptureFixture
) -> None:
    bench.writer.fails = Refusal(3)
    bench.log.append_raw(JOBS, MAILBOX, "x", b"{oops}")
    await bench.mail(job())
    assert len(bench.log.dead_letters(JOBS)) == 1
    assert bench.writer.lost == []
    assert bench.mailbox.seen_at_commit == [len(bench.log.order)], "committed behind the letter"


async def test_a_dead_letter_that_nobody_takes_is_loud_and_holds_nothing_up(
    bench: WorkerBench, no_delay: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mailbox, "LETTER_PATIENCE_S", 0.05)
    bench.writer.fails = Refusal(1_000)
    bench.log.append_raw(JOBS, MAILBOX, "x", b"{oops}")
    await bench.mail(job())
    assert bench.writer.lost == [JOBS.name]
    assert f"generation.jobs {MAILBOX}/0 has no dead letter, look for it there: append" in caplog.text
    assert len(bench.written(Claimed)) == 1
    assert bench.mailbox.commits == [(MAILBOX, 2)]


async def test_a_dead_letter_that_no_broker_ever_takes_is_not_tried_again(
    bench: WorkerBench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.writer.refuses = lambda _topic, record: isinstance(record, DeadLetter)
    bench.log.append_raw(JOBS, MAILBOX, "x", b"{oops}")
    await bench.mail(job())
    assert bench.writer.lost == [JOBS.name]
    assert caplog.text.count("has no dead letter") == 1
    assert bench.mailbox.commits == [(MAILBOX, 2)]


async def test_a_lost_claim_is_said(bench: WorkerBench, caplog: pytest.LogCaptureFixture) -> None:
    bench.writer.fails = lambda _topic, record: isinstance(record, Claimed)
    await bench.mail(job())
    assert f"{R}: the claim of attempt 1 is lost" in caplog.text


# -- jobs that this worker must not or cannot do -------------------------------------------------------------------


async def test_a_job_for_another_model_is_released_and_was_no_attempt(bench: WorkerBench) -> None:
    """Mailboxes change hands: a rebalance may bring a worker the mail of one that serves another model."""
    await bench.mail(job(1, model="other"), job(2, revision="rev-0"), job(3, revision="rev-1"))
    assert [(r.response_id, r.full) for r in bench.released] == [(R, True), (response_id(2), True)]
    assert "serves m rev-1, not other" in bench.released[0].reason
    assert [request.id for request in bench.engine.submitted] == [bench.claim]
    assert bench.free == 1


async def test_a_prompt_longer_than_the_window_is_released_with_both_numbers(tokenizer: ChatTokenizer) -> None:
    prompt_tokens = tokenizer.count([{"role": "user", "content": PROMPT[0].text}])
    bench = await WorkerBench(dataclasses.replace(tokenizer, context_window=prompt_tokens - 1)).start()
    await bench.mail(job(1))
    await bench.stop()
    (released,) = bench.released
    assert (released.full, released.reason) == (
        False,
        f"prompt of {prompt_tokens} tokens exceeds the window of {prompt_tokens - 1} tokens",
    )
    assert (bench.engine.submitted, bench.free, bench.written(Tokens)) == ([], 2, [])


async def test_the_window_is_the_engines_where_its_cache_holds_less(bench: WorkerBench) -> None:
    bench.engine.info = dataclasses.replace(bench.engine.info, context_window=100)
    await bench.mail(job())
    (request,) = bench.engine.submitted
    assert len(request.prompt_ids) + request.max_new_tokens == 100


async def test_a_template_that_breaks_is_an_error_of_its_own_job_only(
    bench: WorkerBench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    encode = ChatTokenizer.encode

    def breaks(self: ChatTokenizer, messages: list[dict[str, str]], **options: bool) -> list[int]:
        if messages[0]["content"] == "Break.":
            raise TypeError(f"can only concatenate {messages[0]['content']}")
        return encode(self, messages, **options)

    monkeypatch.setattr(ChatTokenizer, "encode", breaks)
    await bench.mail(job(1, prompt=[type(PROMPT[0])(role="user", parts=["Break."])]), job(2))
    assert [(r.response_id, r.full) for r in bench.released] == [(R, False)]
    assert bench.released[0].reason == "the prompt cannot be rendered: TypeError", "its words may quote the prompt"
    assert "Traceback" in caplog.text
    assert len(bench.written(Claimed, 2)) == 1
    assert bench.mailbox.commits == [(MAILBOX, 2)]


async def test_a_bug_puts_the_record_aside_and_the_worker_lives(
    bench: WorkerBench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    claim = bench.worker.claim

    def buggy(envelope):  # type: ignore[no-untyped-def]
        if envelope.record.response_id == R:
            raise KeyError("a bug")
        return claim(envelope)

    monkeypatch.setattr(bench.worker, "claim", buggy)
    await bench.mail(job(1), job(2))
    (letter,) = bench.log.dead_letters(JOBS)
    assert letter.error == "KeyError", "its words may quote the prompt"
    assert "Traceback" in caplog.text
    assert len(bench.written(Claimed, 2)) == 1


async def test_an_engine_that_says_it_is_full_costs_no_attempt(bench: WorkerBench) -> None:
    await bench.mail(job(1), job(2))
    gone = bench.claim
    bench.worker.on_outputs([StepOutput(gone, finish="cancelled")])  # and yet its slot is taken
    await bench.mail(job(3))
    assert [(r.response_id, r.full) for r in bench.released] == [(response_id(3), True)]
    assert "slots are taken" in bench.released[0].reason


# -- one generation's trouble is its own ---------------------------------------------------------------------------


async def test_an_output_that_cannot_be_written_down_releases_its_claim_only(
    bench: WorkerBench, caplog: pytest.LogCaptureFixture
) -> None:
    await bench.mail(job(1), job(2))
    sick, well = bench.engine.running
    bench.worker.on_outputs([StepOutput(sick, ("no id",)), StepOutput(well, (1,))])  # type: ignore[arg-type]
    await settle()
    assert [r.claim for r in bench.released] == [sick]
    assert [t.claim for t in bench.written(Tokens, 2)] == [well]
    assert f"claim {sick} failed" in caplog.text


async def test_a_takeover_that_breaks_releases_its_claim(bench: WorkerBench, caplog: pytest.LogCaptureFixture) -> None:
    bench.past(*by_another(bench.tokenizer, [10, 11]))
    bench.replayer.failure = ZeroDivisionError("a bug")
    await bench.mail(job(attempt=2))
    assert [r.reason for r in bench.released] == ["ZeroDivisionError"]
    assert bench.free == 2
    assert "Traceback" in caplog.text


async def test_a_stop_says_why(bench: WorkerBench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await bench.mail(job())
    await bench.mail(Stop(response_id=R, claim=bench.claim, reason="superseded"))
    assert f"{R}: stops claim {bench.claim}: superseded" in caplog.text
