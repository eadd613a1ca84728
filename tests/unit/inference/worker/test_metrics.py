"""What a worker measures, held against what it did."""

from services.inference.meter import InferenceMeter
from shared.chat import ChatTokenizer
from shared.records import Heartbeat, Stop, Tokens
from shared.telemetry.metrics import Metrics
from shared.topics import Service
from tests.support.owner_bench import response_id
from tests.support.scraping import Samples, of_registry
from tests.unit.inference.worker.bench import WorkerBench, job

CLAIMS = "chatmesh_claims_total"
DURATION = "gen_ai_server_request_duration_seconds_count"
FIRST_TOKEN = "gen_ai_server_time_to_first_token_seconds_count"
PER_TOKEN = "gen_ai_server_time_per_output_token_seconds_count"


def shown(bench: WorkerBench) -> Samples:
    return of_registry(bench.metrics.registry)


async def test_a_finished_generation_counts_with_its_tokens_and_times(bench: WorkerBench) -> None:
    await bench.mail(job())
    ids = bench.tokenizer.encode_text("Hello, world")
    await bench.say(bench.claim, ids[:1])
    await bench.say(bench.claim, ids[1:], "length")
    found = shown(bench)
    assert found.by(CLAIMS, "outcome") == {("finished",): 1}
    assert found.total("chatmesh_generated_tokens_total") == len(ids)
    for name in (DURATION, FIRST_TOKEN, PER_TOKEN):
        (sample,) = found.of(name)
        assert sample.value == 1
        assert sample.labels == {
            "gen_ai_operation_name": "chat",
            "gen_ai_provider_name": "chatmesh",
            "gen_ai_request_model": "m",
            "error_type": "",
        }


async def test_an_answer_of_one_token_has_no_time_per_token(bench: WorkerBench) -> None:
    await bench.mail(job())
    await bench.say(bench.claim, bench.tokenizer.encode_text("Hello")[:1], "length")
    found = shown(bench)
    assert (found.total(FIRST_TOKEN), found.total(PER_TOKEN)) == (1, 0)


async def test_what_the_owner_ends_is_stopped_and_superseded_is_told_apart(bench: WorkerBench) -> None:
    await bench.mail(job())
    await bench.mail(Stop(response_id=response_id(1), claim=bench.claim, reason="ended"))
    await bench.mail(job(2))
    await bench.mail(Stop(response_id=response_id(2), claim=bench.claim, reason="superseded"))
    assert shown(bench).by(CLAIMS, "outcome") == {("stopped",): 1, ("superseded",): 1}


async def test_an_engine_that_fails_releases_with_its_error_type(bench: WorkerBench) -> None:
    await bench.mail(job())
    await bench.say(bench.claim, [], "error")
    found = shown(bench)
    assert found.by(CLAIMS, "outcome") == {("released",): 1}
    assert found.by(DURATION, "error_type") == {("engine_failed",): 1}
    assert found.total(FIRST_TOKEN) == 0


async def test_what_finds_no_slot_is_full(tokenizer: ChatTokenizer) -> None:
    bench = await WorkerBench(tokenizer, slots=1).start()
    await bench.mail(job(1), job(2))
    assert shown(bench).by(CLAIMS, "outcome") == {("full",): 1}
    await bench.stop()


def test_the_engine_is_read_at_each_scrape() -> None:
    metrics, steps = Metrics(Service.INFERENCE), [1]
    beat = Heartbeat(service="inference", id="worker_1", state="ready", seq=1, slots_total=4, slots_free=3)
    InferenceMeter(metrics).watch(lambda: beat, lambda: steps[0])
    steps[0] = 7
    found = of_registry(metrics.registry)
    assert found.by("chatmesh_engine_slots", "state") == {("total",): 4, ("free",): 3}
    assert found.total("chatmesh_engine_steps_total") == 7


async def test_an_answer_of_one_step_has_no_time_per_token_however_long_it_is(bench: WorkerBench) -> None:
    await bench.mail(job())
    await bench.say(bench.claim, bench.tokenizer.encode_text("Hello, world, once and again"), "length")
    found = shown(bench)
    assert (found.total(FIRST_TOKEN), found.total(PER_TOKEN)) == (1, 0)


async def test_tokens_that_never_came_into_the_journal_are_not_counted(bench: WorkerBench) -> None:
    await bench.mail(job())
    ids = bench.tokenizer.encode_text("Hello, world")
    await bench.say(bench.claim, ids[:1])
    bench.writer.fails = lambda _topic, record: isinstance(record, Tokens)
    await bench.say(bench.claim, ids[1:])
    assert shown(bench).total("chatmesh_generated_tokens_total") == 1
