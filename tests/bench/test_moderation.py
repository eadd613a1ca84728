"""What models cost: the arithmetic."""

import math

import pytest

from shared.records import BackendReport, Verdict
from tests.bench.moderation.figures import Run, Waits, WindowCost, cost_share, cpu_share, mesh_table, window_table
from tests.bench.workload import Level


def a_verdict(*latencies_ms: float, stage: str = "output", category: str | None = None) -> Verdict:
    reports = [BackendReport(name=f"b{n}", revision="1", latency_ms=ms) for n, ms in enumerate(latencies_ms)]
    return Verdict(
        verdict_id="v",
        response_id="r",
        tenant="t",
        stage=stage,  # type: ignore[arg-type]
        action="pass",
        policy="p",
        window=0,
        start=0,
        end=1,
        latency_ms=1.0,
        category=category,
        backends=reports,
    )


def a_run(policy: str, tokens_per_s: float, median_ms: float = math.nan, cpu_ms: float = 0.5) -> Run:
    cpu = {"moderation": cpu_ms, "inference": 7.5, "client": 1.0, "others": 9.0}
    level = Level(32, 400.0, 80.0, tokens_per_s, 4096, 1.0, 4.0, cpu, {})
    return Run(policy, 96, 64, level, Waits(100, median_ms, 2 * median_ms))


def test_a_checkpoint_waits_for_its_slowest_backend() -> None:
    verdicts = [a_verdict(n, 1.0) for n in range(10, 30)]
    beside = [a_verdict(999.0, stage="input"), a_verdict(999.0, category="hate"), a_verdict()]
    waits = Waits.of([*verdicts, *beside])
    assert (waits.checkpoints, waits.median_ms) == (20, 19.5)
    assert waits.p95_ms == pytest.approx(28.95)
    assert math.isnan(Waits.of([]).median_ms)
    assert Waits.of([a_verdict(7.0)]) == Waits(1, 7.0, 7.0)


def test_the_cost_is_that_of_the_middle_round() -> None:
    rounds = [(a_run("patterns", 200), a_run("default", speed)) for speed in (150, 190, 188)]
    assert cost_share(rounds) == pytest.approx(0.06)
    assert cpu_share([(a_run("patterns", 200), a_run("default", 190, cpu_ms=1.3))]) == pytest.approx(0.1)


def test_the_table_names_what_is_to_be_reached() -> None:
    shown = mesh_table([(a_run("patterns", 200), a_run("default", 190, 25.0))])
    assert "| patterns | 200.0 | 400 | 0.50 | 96 | 24.0 |" in shown
    assert "**5.0%** of the tokens/s (to reach: ≤ 10 %) and +0.0% CPU time" in shown
    assert (
        "about 100 checkpoints, one every 64 code points, took **25 ms** as a median (to reach: ≤ 60), 50 ms" in shown
    )


def test_the_windows_have_a_table() -> None:
    shown = window_table([WindowCost(128, 10.0, 9.5, 4, 0.7, 0.4)], "cpu, bfloat16")
    assert "(cpu, bfloat16)" in shown
    assert "| 128 | 10.00 | **9.50** | 0.70 | 0.40 |" in shown
