"""A run as a table for people and as JSON."""

from dataclasses import asdict
from typing import Any

from tests.chaos.campaign import Result
from tests.chaos.checker import Evidence, Violation, check, counts
from tests.chaos.figures import Row, ordinary, pauses, resumes
from tests.chaos.observations import Healed, by_stream


def violations(result: Result) -> list[Violation]:
    """Of both parts; the logs, which they share, are judged once."""
    calm = Evidence(result.calm.lines, {}, {}, result.calm.references)
    return [*check(calm), *check(result.chaos)]


def figures(result: Result) -> list[Row]:
    """The baseline, each kind of fault, the resumed streams."""
    return [ordinary(result.calm), *pauses(result.chaos), resumes(result.chaos)]


def as_json(result: Result, found: list[Violation]) -> dict[str, Any]:
    """All figures; waits in seconds."""
    return {
        "streams": len(by_stream(result.chaos.lines)),
        "responses": len(result.chaos.journals),
        "exited_by_themselves": sum(isinstance(line, Healed) and line.exited for line in result.chaos.lines),
        "ended_early": result.trouble,
        "violations": counts(found),
        "details": [str(violation) for violation in found],
        "waits": [asdict(row) for row in figures(result)],
    }


def table(result: Result, found: list[Violation]) -> str:
    """Markdown."""
    head = ["| fault | times | streams hit | pause: median | p99 | longest |", "|---|---|---|---|---|---|"]
    rows = [
        f"| {r.fault} | {r.faults or ''} | {r.streams} | {r.median_s:.2f} s | {r.p99_s:.2f} s | {r.max_s:.2f} s |"
        for r in figures(result)
    ]
    broken = ", ".join(f"{name} {number}" for name, number in counts(found).items())
    return "\n".join([*head, *rows, "", f"{len(by_stream(result.chaos.lines))} streams under faults: {broken}"])
