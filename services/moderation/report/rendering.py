"""A summary, and single verdicts, as lines for people. Pure."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from services.moderation.report.summary import NEAR, QUANTILES, Summary
from shared.records import Verdict

ACTIONS = ("pass", "flag", "mask", "cut", "refuse")
TOP_TENANTS = 10


def render(summary: Summary) -> str:
    """The report, about a screen of it."""
    if summary.first_ms is None or summary.last_ms is None:
        return "no verdicts"
    again = f", and {summary.repeated:,} of them again by another owner" if summary.repeated else ""
    lines = [f"{summary.verdicts:,} verdicts from {_time(summary.first_ms)} to {_time(summary.last_ms)}{again}"]
    for section in (_texts, _categories, _thresholds, _backends, _policies, _tenants):
        lines += section(summary)
    return "\n".join(lines)


def render_verdict(verdict: Verdict, at_ms: int) -> str:
    """One verdict on one line: when, whose, what, where, under which policy, by which ids."""
    what = f"{verdict.stage} {verdict.action} {verdict.category or '-'}"
    if verdict.category in verdict.scores:
        what += f" {verdict.scores[verdict.category]:.3f}"
    whose = f"{verdict.verdict_id}  {verdict.response_id}  {verdict.tenant}"
    backends = "".join(f" {report.name}={report.status}" for report in verdict.backends)
    return f"{_time(at_ms)}  {whose}  {what}  [{verdict.start}, {verdict.end})  {verdict.policy}{backends}"


def _texts(summary: Summary) -> Iterator[str]:
    names = {"input": "inputs", "output": "stretches of output"}
    rows = [
        [names[stage], *_by_action(summary.texts, stage), *_durations(summary.waits[stage])]
        for stage in sorted(summary.waits)
    ]
    yield from _section("texts", ["", *ACTIONS, *_duration_head("waited")], rows)


def _categories(summary: Summary) -> Iterator[str]:
    pairs = sorted({(category, stage) for category, stage, _ in summary.categories})
    rows = [[category, stage, *_by_action(summary.categories, category, stage)] for category, stage in pairs]
    yield from _section("finds by category", ["", "in", *ACTIONS], rows)


def _thresholds(summary: Summary) -> Iterator[str]:
    rows = []
    for category, what, threshold in sorted(summary.thresholds):
        below, above = summary.near(category, threshold)
        if below or above:
            rows.append([category, what, f"{threshold:g}", f"{below:,}", f"{above:,}"])
    head = ["", "for", "threshold", f"up to {NEAR:g} below", f"up to {NEAR:g} above"]
    yield from _section("texts whose score is near a threshold", head, rows)


def _backends(summary: Summary) -> Iterator[str]:
    rows = [
        [name, revision, *(f"{of.answers[status]:,}" for status in ("ok", "failed", "late")), *_durations(of.latencies)]
        for (name, revision), of in sorted(summary.backends.items())
    ]
    head = ["", "revision", "ok", "failed", "late", *_duration_head("took")]
    yield from _section("backends", head, rows)


def _policies(summary: Summary) -> Iterator[str]:
    rows = [[policy, *_by_action(summary.policies, policy)] for policy in sorted({p for p, _ in summary.policies})]
    yield from _section("texts by policy", ["", *ACTIONS], rows)


def _tenants(summary: Summary) -> Iterator[str]:
    harm: Counter[str] = Counter()
    for (tenant, action), count in summary.tenants.items():
        harm[tenant] += count if action != "pass" else 0
    top = [tenant for tenant, _ in sorted(harm.items(), key=lambda item: (-item[1], item[0]))[:TOP_TENANTS]]
    of = f"{len(top)} of {len(harm):,}, most finds first"
    yield from _section(f"texts by tenant ({of})", ["", *ACTIONS], [[t, *_by_action(summary.tenants, t)] for t in top])


def _by_action(counts: Counter[Any], *path: str) -> list[str]:
    return [f"{counts[*path, action]:,}" for action in ACTIONS]


def _durations(latencies: Any) -> list[str]:
    return [*(f"{latencies.quantile(share):.2f}" for share in QUANTILES), f"{latencies.max_ms:.2f}"]


def _duration_head(what: str) -> list[str]:
    return [f"{what} ms p{QUANTILES[0] * 100:g}", *(f"p{share * 100:g}" for share in QUANTILES[1:]), "max"]


def _section(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A titled table; nothing where there is nothing to show. Numbers are to the right."""
    if not rows:
        return
    table = [[title, *head[1:]], *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    yield ""
    for row in table:
        cells = (
            cell.rjust(width) if _is_number(rows[0][column]) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


def _is_number(cell: str) -> bool:
    return cell.replace(",", "").replace(".", "").isdigit()


def _time(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
