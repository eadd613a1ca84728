"""What models in moderation cost a mesh, from runs with and without them. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles

from shared.records import Verdict
from tests.bench.workload import Level

_OUTSIDE = ("client", "others")
"""What CpuMeter counts beside the mesh's processes."""


@dataclass(frozen=True, slots=True)
class WindowCost:
    """Milliseconds of CPU for one window of `length` positions: `alone_ms` in a pass of its own, `shared_ms` in one of
    `shared` windows, encoder and head; of the head alone; and of reading: normalising, and cutting into pieces."""

    length: int
    alone_ms: float
    shared_ms: float
    shared: int
    head_ms: float
    reading_ms: float


@dataclass(frozen=True, slots=True)
class Waits:
    """How long the backends took for the checkpoints of outputs, from the question to the answer, ms."""

    checkpoints: int
    median_ms: float
    p95_ms: float

    @classmethod
    def of(cls, verdicts: Sequence[Verdict]) -> "Waits":
        """By the slowest backend of each checkpoint."""
        asked = [verdict for verdict in verdicts if verdict.stage == "output" and verdict.category is None]
        slowest = [max(report.latency_ms for report in verdict.backends) for verdict in asked if verdict.backends]
        if len(slowest) < 2:
            return cls(len(slowest), *(2 * [slowest[0] if slowest else math.nan]))
        return cls(len(slowest), median(slowest), quantiles(slowest, n=20)[-1])


@dataclass(frozen=True, slots=True)
class Run:
    """One mesh under load with one policy. `hold_back`: code points that it holds back."""

    policy: str
    hold_back: int
    checkpoint: int
    level: Level
    waits: Waits

    @property
    def cpu_ms(self) -> float:
        """CPU time of the whole mesh per token, the broker included."""
        return sum(ms for name, ms in self.level.cpu_ms.items() if name not in _OUTSIDE)

    @property
    def held_tokens(self) -> float:
        """The hold-back in tokens of the measured text."""
        return self.hold_back / self.level.characters_per_token


Round = tuple[Run, Run]
"""Patterns alone, then the default policy; side by side in time."""


def cost_share(rounds: Sequence[Round]) -> float:
    """The share of tokens per second that models cost: the median over the rounds of what each round shows."""
    return median(1 - models.level.tokens_per_s / patterns.level.tokens_per_s for patterns, models in rounds)


def cpu_share(rounds: Sequence[Round]) -> float:
    """By how much models raise the mesh's CPU time per token: what a busy machine shows too. Median over the rounds."""
    return median(models.cpu_ms / patterns.cpu_ms - 1 for patterns, models in rounds)


def mesh_table(rounds: Sequence[Round]) -> str:
    """Markdown: medians over the rounds, and the two figures that have a goal."""
    patterns, models = ([pair[n] for pair in rounds] for n in (0, 1))
    head = ["tokens/s", "first token, ms", "moderation's CPU per token, ms", "hold-back, code points", "in tokens"]
    rows = [
        f"| {patterns[0].level.streams} streams | {' | '.join(head)} |",
        "|---" * (len(head) + 1) + "|",
        *(_run_row(runs) for runs in (patterns, models)),
        "",
        f"Models cost **{cost_share(rounds):.1%}** of the tokens/s (to reach: ≤ 10 %) and "
        f"{cpu_share(rounds):+.1%} CPU time. Their answers about "
        f"{sum(run.waits.checkpoints for run in models)} checkpoints, one every {models[0].checkpoint} code points, "
        f"took **{_middle(models, 'median_ms'):.0f} ms** as a median (to reach: ≤ 60), "
        f"{_middle(models, 'p95_ms'):.0f} ms for 19 of 20.",
    ]
    return "\n".join(rows)


def _run_row(runs: Sequence[Run]) -> str:
    speed, first, cpu = (
        median(values)
        for values in (
            [run.level.tokens_per_s for run in runs],
            [run.level.first_token_ms for run in runs],
            [run.level.cpu_ms["moderation"] for run in runs],
        )
    )
    held = f"{runs[0].hold_back} | {median(run.held_tokens for run in runs):.1f}"
    return f"| {runs[0].policy} | {speed:.1f} | {first:.0f} | {cpu:.2f} | {held} |"


def _middle(runs: Sequence[Run], name: str) -> float:
    return median(getattr(run.waits, name) for run in runs)


def window_table(costs: Sequence[WindowCost], runs_on: str) -> str:
    """Markdown; `runs_on`: processor and numbers."""
    head = ["alone, ms", f"in a pass of {costs[0].shared}, ms each", "of it the head", "reading it"]
    rows = [f"| a window, one core ({runs_on}), positions | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for cost in costs:
        times = f"{cost.alone_ms:.2f} | **{cost.shared_ms:.2f}** | {cost.head_ms:.2f} | {cost.reading_ms:.2f}"
        rows.append(f"| {cost.length} | {times} |")
    return "\n".join(rows)
