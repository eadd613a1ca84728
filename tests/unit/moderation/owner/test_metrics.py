"""What an owner measures, held against what it wrote to the log."""

import pytest
from prometheus_client import CollectorRegistry

from services.moderation.meter import ModerationMeter
from services.moderation.owner.arrivals import Arrivals
from services.moderation.owner.watch import Reason
from shared.records import Cancel, Record, Released, Verdict
from shared.telemetry.metrics import Metrics
from shared.topics import VERDICTS, Service
from tests.support.backends import WordBackend
from tests.support.owner_bench import (
    OwnerBench,
    claimed,
    gateway_beat,
    requested,
    response_id,
    tokens,
    worker_beat,
)
from tests.support.policies import CUT_PHRASE, REFUSE_PHRASE
from tests.support.scraping import of_registry

TEXT = "It was a bright cold day in April, and the clocks were striking thirteen."
JUDGED = """
version: judged-1
streaming: {stride: 4, checkpoint: 8, hold_back: 24, lookback: 64}
backends:
  words: {kind: encoder, timeout_s: 30, on_failure: open}
categories:
  violence: {input: refuse, output: cut, thresholds: {flag: 0.5, cut: 0.9}}
"""
ENDED = "chatmesh_responses_total"
HELD_BACK = "chatmesh_hold_back_seconds"
TAKEOVERS = "chatmesh_generation_takeovers_total"
CALLED = "chatmesh_moderation_backend_duration_seconds_count"
VERDICTS_SENT = "chatmesh_verdicts_total"
LABELS = {
    ENDED: ("outcome", "reason"),
    TAKEOVERS: ("reason",),
    CALLED: ("backend", "status"),
    VERDICTS_SENT: ("decision", "stage"),
}


def values(registry: CollectorRegistry, name: str) -> dict[tuple[str, ...], float]:
    """What is not zero, by the values of the labels."""
    return of_registry(registry).by(name, *LABELS.get(name, ()))


async def started(**options: object) -> OwnerBench:
    bench = OwnerBench(**options)  # type: ignore[arg-type]
    bench.hear(gateway_beat(), worker_beat(claims=["claim_a"]))
    await bench.start()
    return bench


@pytest.mark.parametrize(
    ("journal", "expected"),
    [
        ([requested(), claimed(), tokens(TEXT, finish="stop")], ("completed", "")),
        ([requested(), claimed(), tokens(TEXT, finish="length")], ("incomplete", "max_output_tokens")),
        ([requested(), claimed(), tokens(f"{TEXT} {CUT_PHRASE} {TEXT}")], ("incomplete", "content_filter")),
        ([requested(), claimed(), tokens(TEXT), Cancel(response_id=response_id(1))], ("cancelled", "requested")),
        ([requested(text=REFUSE_PHRASE)], ("refused", "content_policy_violation")),
        ([requested(), Cancel(response_id=response_id(1))], ("cancelled", "requested")),
    ],
)
async def test_every_end_counts_once_by_its_outcome(journal: list[Record], expected: tuple[str, str]) -> None:
    bench = await started()
    await bench.journal(*journal)  # type: ignore[arg-type]
    assert values(bench.metrics.registry, ENDED) == {expected: 1}


async def test_a_deadline_and_an_abandoned_response_are_told_apart() -> None:
    bench = await started()
    await bench.journal(requested(deadline_ms=bench.log.now_ms + 1_000, background=True), claimed())
    await bench.advance(1_500)
    await bench.journal(requested(2), claimed(2, claim="claim_b"))
    bench.silence("gateway_1")
    bench.hear(worker_beat(claims=["claim_a", "claim_b"]))
    await bench.advance(15_000)
    assert values(bench.metrics.registry, ENDED) == {("failed", "deadline"): 1, ("cancelled", "abandoned"): 1}


async def test_verdicts_count_as_they_were_sent() -> None:
    bench = await started()
    await bench.journal(requested(), claimed(), tokens(f"{TEXT} {CUT_PHRASE} {TEXT}", finish="stop"))
    sent = [(verdict.action, verdict.stage) for verdict in bench.log.of(VERDICTS, Verdict)]
    counted = values(bench.metrics.registry, VERDICTS_SENT)
    assert counted == {verdict: sent.count(verdict) for verdict in sent}
    assert ("cut", "output") in counted and ("pass", "input") in counted


async def test_text_is_held_back_from_its_tokens_to_its_delta() -> None:
    bench = await started()
    await bench.journal(requested(), claimed(), tokens("It", 0))
    bench.log.now_ms += 2_000
    await bench.journal(tokens(TEXT[2:], 2, finish="stop"))
    assert bench.kinds(1).count("Delta") > 1
    # All of them came of one batch, the last one; its first delta began with what had come two seconds before.
    assert values(bench.metrics.registry, f"{HELD_BACK}_count") == {(): 1}
    assert 2.0 <= values(bench.metrics.registry, f"{HELD_BACK}_sum")[()] < 2.5


async def test_a_silent_worker_costs_a_takeover() -> None:
    bench = await started()
    await bench.journal(requested(background=True), claimed(), tokens(TEXT[:5]))
    bench.silence("worker_1")
    bench.hear(worker_beat("worker_2", mailbox=1))
    await bench.advance(3_000)
    assert values(bench.metrics.registry, TAKEOVERS) == {("silent",): 1}
    assert [job.attempt for job in bench.jobs] == [1, 2]


async def test_a_released_claim_costs_a_takeover() -> None:
    bench = await started()
    await bench.journal(requested(background=True), claimed(), tokens(TEXT[:5]))
    released = Released(response_id=response_id(1), claim="claim_a", attempt=1, worker="worker_1", reason="why not")
    await bench.journal(released)
    await bench.advance(3_000)
    assert values(bench.metrics.registry, TAKEOVERS)[("released",)] == 1


async def test_a_partition_with_open_responses_is_a_takeover_and_a_healed_one_is_not() -> None:
    first = await started()
    await first.journal(requested(background=True), claimed(), tokens(TEXT))
    assert values(first.metrics.registry, "chatmesh_partition_takeovers_total") == {}
    second = OwnerBench(first.log, service_id="moderation_2", generation=2)
    second.hear(gateway_beat(), worker_beat(claims=["claim_a"]))
    await second.start()
    assert values(second.metrics.registry, "chatmesh_partition_takeovers_total") == {(): 1}
    second.owner._outbox.broken.add(second.partition)
    await second.tick()
    assert values(second.metrics.registry, "chatmesh_partition_takeovers_total") == {(): 1}


async def test_the_gauges_are_what_the_owner_holds() -> None:
    bench = OwnerBench()
    bench.hear(gateway_beat())
    await bench.start()
    await bench.journal(requested(), requested(2))
    owner = bench.owner
    assert (owner.waiting, owner.open_responses, owner.live_partitions) == (2, 2, [bench.partition])
    await bench.journal(Cancel(response_id=response_id(1)))
    await bench.tick()
    assert (owner.waiting, owner.open_responses) == (1, 1)


async def test_calls_of_a_backend_count_by_how_they_ended() -> None:
    backend = WordBackend("words", {}, hangs="molasses", fails="gremlin", noise=0.0)
    bench = OwnerBench(policy=JUDGED, build=lambda *_: backend)
    bench.hear(gateway_beat(), worker_beat(claims=["claim_a"]))
    await bench.start()
    await bench.journal(requested())
    assert values(bench.metrics.registry, CALLED) == {("words", "ok"): 1}
    await bench.journal(requested(2, text="a gremlin"))
    assert values(bench.metrics.registry, CALLED) == {("words", "ok"): 1, ("words", "failed"): 1}


def test_all_reasons_of_the_watch_are_there_from_the_start() -> None:
    metrics = Metrics(Service.MODERATION)
    ModerationMeter(metrics)
    (family,) = [f for f in metrics.registry.collect() if f.name == TAKEOVERS.removesuffix("_total")]
    shown = {sample.labels["reason"] for sample in family.samples}
    assert shown == {reason.name.lower() for reason in Reason if reason is not Reason.FIRST}


def test_arrivals_know_when_what_is_not_public_came() -> None:
    arrivals = Arrivals()
    arrivals.came(["It", " was"], 100)
    arrivals.came([""], 150)
    arrivals.came([" bright"], 200)
    assert [arrivals.of(position) for position in (0, 5, 6, 12)] == [100, 100, 200, 200]
    assert arrivals.of(13) is None
