"""What a token costs, and the table of it. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench.tokens.window import Window


@dataclass(frozen=True, slots=True)
class Cost:
    """`cpu_us`: CPU time of one process per token, in microseconds; `written`: records that it wrote meanwhile.

    `busy`: the share of one core that the process took; `others`: that of everything else, the broker included.
    """

    name: str
    cpu_us: float
    tokens: int
    tokens_per_s: float
    busy: float
    others: float
    written: int = 0

    @classmethod
    def of(cls, name: str, window: Window, tokens: int, written: int = 0) -> "Cost":
        """Of one window."""
        length_s = window.length_s
        return cls(
            name=name,
            cpu_us=window.cpu_s * 1e6 / max(1, tokens),
            tokens=tokens,
            tokens_per_s=tokens / length_s,
            busy=window.cpu_s / length_s,
            others=window.others_s / length_s,
            written=written,
        )


@dataclass(frozen=True, slots=True)
class Measured:
    """A service and its bare loops. `beside`: work of the measured process that no bare loop has, measured alone; the
    ratios leave it out."""

    service: Cost
    bare: list[Cost]
    beside: Cost | None = None

    @property
    def ratios(self) -> list[float]:
        """How many times the CPU time of each bare loop the service takes."""
        own_us = self.service.cpu_us - (self.beside.cpu_us if self.beside is not None else 0.0)
        return [own_us / loop.cpu_us for loop in self.bare]


def middle(rounds: Sequence[Measured]) -> Measured:
    """The round whose (first) ratio is the median, the lower one of two: its rows were measured together."""
    return sorted(rounds, key=lambda measured: measured.ratios[0])[(len(rounds) - 1) // 2]


def cost_table(measured: Sequence[Measured]) -> str:
    """Markdown: each service, then what its bare loops cost, and how many times theirs it costs."""
    rows = ["| CPU per token | µs | of the bare loop | tokens/s | cores |", "|---|---|---|---|---|"]
    for each in measured:
        rows.append(_row(each.service, "", "with the scripted engine" if each.beside is not None else ""))
        rows += [_row(each.beside, "", "alone")] if each.beside is not None else []
        rows += [_row(loop, f"**{ratio:.2f}**") for loop, ratio in zip(each.bare, each.ratios, strict=True)]
    return "\n".join(rows)


def _row(cost: Cost, ratio: str, remark: str = "") -> str:
    name = f"{cost.name}, {remark}" if remark else cost.name
    return f"| {name} | {cost.cpu_us:.0f} | {ratio} | {cost.tokens_per_s:,.0f} | {cost.busy:.2f} |"
