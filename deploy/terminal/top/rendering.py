"""The view as tables: the same on a terminal, at any width, and in a pipe."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.table import Table
from rich.text import Text

from deploy.terminal.command import clock_time, printable
from deploy.terminal.top.flow import KEPT_S
from deploy.terminal.top.view import GroupRow, ServiceRow, View

_LATE_MS = 1000
_NEWS_SHOWN = 5
_STATES = {"ready": "green", "starting": "yellow", "draining": "yellow"}
_SOME_LAG = 1000
_LEAST_WIDTH = 8
_MARKS = ">~"


def render(view: View, *, brief: bool = False) -> RenderableType:
    """The whole screen. `brief`: groups that are well are counted only, to fit the height of a terminal."""
    parts: list[RenderableType] = [*_head(view), "", _services(view), ""]
    if view.groups is None:
        parts.append(Text("lag: the broker does not say", "yellow"))
    else:
        shown = tuple(row for row in view.groups if not (brief and row.is_well))
        parts += [_groups(shown)] if shown else []
        parts += [Text(f"{len(view.groups) - len(shown)} groups without lag", "dim")] if brief else []
    if view.news:
        latest = list(view.news)[-_NEWS_SHOWN:]
        parts += ["", *(Text(f"{clock_time(each.at_ms)}  {printable(each.text)}", "dim") for each in latest)]
    return Group(*parts)


def _head(view: View) -> Iterator[RenderableType]:
    yield Text.assemble(("chatmesh", "bold"), f" at {view.broker}, {clock_time(view.at_ms)}")
    free, total = view.slots
    now = f"now: running {view.running:,}, waiting {view.waiting:,}, slots free {free:,} of {total:,}"
    yield Text(now if view.scraped is None else f"{now}, streams open {view.scraped.streams:,}")
    totals = view.totals
    ended = "".join(f", {kind} {count:,}" for kind, count in totals.ended)
    yield Text(f"last {KEPT_S} s: accepted {totals.accepted:,}{ended}, new owners {totals.new_owners:,}")
    yield Text(_tokens(view))


def _tokens(view: View) -> str:
    scraped = view.scraped
    live = "" if scraped is None or scraped.tokens_per_s is None else f"{scraped.tokens_per_s:,.1f} now, "
    said = f"tokens/s: {live}{view.totals.tokens_per_s:,.1f} of what ended in {KEPT_S} s"
    said += f"; deltas/s: {view.totals.deltas_per_s:,.1f}"
    if scraped is None:
        return said
    missing = scraped.asked - scraped.answered
    said += f"; takeovers: {scraped.takeovers:,}"
    return said + (f"\n{missing} of {scraped.asked} metrics endpoints do not answer" if missing else "")


def _services(view: View) -> "_Fitting":
    columns = ("~SERVICE", "STATE", ">BEAT", ">PARTS", ">FREE", ">CLAIMS", ">WAIT", ">STEPS/s", "~MODEL")
    return _Fitting(columns, [tuple(_service(row)) for row in view.services])


def _service(row: ServiceRow) -> Iterator[Text | str]:
    yield _yielding(row.id)
    yield Text(row.state, _STATES[row.state])
    yield Text(f"{row.age_ms / 1000:.1f}s", "red" if row.age_ms > _LATE_MS else "")
    yield str(len(row.partitions)) if row.partitions else "-"
    yield f"{row.slots_free}/{row.slots_total}" if row.slots_total else "-"
    yield str(row.claims) if row.slots_total else "-"
    yield str(row.waiting) if row.service == "moderation" else "-"
    yield f"{row.steps_per_s:.0f}" if row.steps_per_s is not None else "-"
    yield _yielding(row.model if row.state == "ready" else row.detail)


def _groups(rows: tuple[GroupRow, ...]) -> "_Fitting":
    columns = ("~GROUP", "~TOPIC", "STATE", ">MEMBERS", ">LAG", ">WORST")
    return _Fitting(columns, [tuple(_group(row)) for row in rows])


def _group(row: GroupRow) -> Iterator[Text | str]:
    yield _yielding(row.group)
    yield _yielding(row.topic)
    yield row.state
    yield str(row.members)
    yield Text(f"{row.lag:,}", "red" if row.lag >= _SOME_LAG else "")
    yield "-" if row.worst_partition is None else f"{row.worst_lag:,} in {row.worst_partition}"


def _yielding(text: str) -> Text:
    """What is cut short where the terminal is too narrow."""
    return Text(printable(text), no_wrap=True, overflow="ellipsis")


@dataclass(frozen=True)
class _Fitting:
    """A table of as many of its columns, from the left, as there is room for.

    Columns that begin with `>` are right-aligned, those with `~` give way where the terminal is narrow.
    """

    columns: tuple[str, ...]
    rows: Sequence[tuple[Text | str, ...]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        needed = accumulate(self._least(number) + 1 for number in range(len(self.columns)))
        shown = max(1, sum(width <= options.max_width for width in needed))
        table = _table(self.columns[:shown])
        for row in self.rows:
            table.add_row(*row[:shown])
        yield table

    def _least(self, number: int) -> int:
        """The width without which a column says nothing."""
        name = self.columns[number]
        cells = max(cell_len(str(text)) for text in (name.lstrip(_MARKS), *(row[number] for row in self.rows)))
        return min(cells, _LEAST_WIDTH) if name.startswith("~") else cells


def _table(columns: Iterable[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for name in columns:
        justify: Literal["left", "right"] = "right" if name.startswith(">") else "left"
        yields = name.startswith("~")
        least = _LEAST_WIDTH if yields else None
        table.add_column(name.lstrip(_MARKS), justify=justify, no_wrap=not yields, min_width=least)
    return table
