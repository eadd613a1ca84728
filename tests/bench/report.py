"""From the rounds' figures to medians, ratios and a table. Pure."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from tests.bench.workload import Level

Round = dict[str, list[Level]]  # system → its levels


@dataclass(frozen=True, slots=True)
class HoldBack:
    """What a policy keeps back, in code points and, by the measured text, in tokens."""

    policy: str
    code_points: int
    tokens: float


def medians(rounds: Sequence[Round]) -> Round:
    """Each figure's median over the rounds."""
    return {
        system: [_median([r[system][n] for r in rounds]) for n in range(len(rounds[0][system]))] for system in rounds[0]
    }


def _median(levels: Sequence[Level]) -> Level:
    fields = [asdict(level) for level in levels]
    nested: dict[str, Any] = {
        part: {name: median(f[part][name] for f in fields) for name in fields[0][part]}
        for part in ("cpu_ms", "stages_ms")
    }
    plain: dict[str, Any] = {
        name: median(f[name] for f in fields) for name in fields[0] if name not in (*nested, "streams", "tokens")
    }
    return Level(streams=levels[0].streams, tokens=levels[0].tokens, **nested, **plain)


def table(middle: Round, hold_backs: Sequence[HoldBack]) -> str:
    """Markdown: latency, throughput, CPU."""
    parts = [_latency(middle), _stages(middle), _throughput(middle), _cpu(middle), _held(hold_backs)]
    return "\n\n".join(part for part in parts if part)


def _latency(middle: Round) -> str:
    rows = ["| one stream | first token, ms | per token, ms |", "|---|---|---|"]
    rows += [
        f"| {name} | {levels[0].first_token_ms:.1f} | {levels[0].token_ms:.1f} |" for name, levels in middle.items()
    ]
    if {"mesh", "engine"} <= set(middle):
        mesh, engine = middle["mesh"][0], middle["engine"][0]
        first, each = mesh.first_token_ms - engine.first_token_ms, mesh.token_ms - engine.token_ms
        rows.append(f"| **mesh − engine** (to reach: ≤ 20, ≤ 6) | **{first:+.1f}** | **{each:+.1f}** |")
    return "\n".join(rows)


def _stages(middle: Round) -> str:
    stages = middle["mesh"][0].stages_ms if "mesh" in middle else {}
    if not stages:
        return ""
    return "\n".join(
        [
            "| one stream through the mesh, up to | ms |",
            "|---|---|",
            *(f"| {n} | {ms:.1f} |" for n, ms in stages.items()),
        ]
    )


def _throughput(middle: Round) -> str:
    names = list(middle)
    versus = [(a, b) for a, b in (("mesh", "serve"), ("mesh", "engine"), ("engine", "serve")) if {a, b} <= set(names)]
    head = ["tokens/s at streams", *names, *(f"{a} / {b}" for a, b in versus)]
    rows = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for n, level in enumerate(middle[names[0]]):
        speed = {name: middle[name][n].tokens_per_s for name in names}
        ratios = [f"**{speed[a] / speed[b]:.2f}**" for a, b in versus]
        rows.append("| " + " | ".join([str(level.streams), *(f"{speed[n]:.1f}" for n in names), *ratios]) + " |")
    return "\n".join(rows)


def _cpu(middle: Round) -> str:
    rows = ["| CPU ms per token | streams | by process |", "|---|---|---|"]
    for name, levels in middle.items():
        for level in levels:
            parts = ", ".join(f"{who} {ms:.2f}" for who, ms in sorted(level.cpu_ms.items(), key=lambda i: -i[1]))
            rows.append(f"| {name} | {level.streams} | {parts} |")
    return "\n".join(rows)


def _held(hold_backs: Sequence[HoldBack]) -> str:
    return "\n".join(
        f"Hold-back of the {h.policy} policy: {h.code_points} code points, about {h.tokens:.1f} tokens."
        for h in hold_backs
    )
