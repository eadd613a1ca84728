"""Verdicts to report on."""

from typing import Any

from shared.records import Verdict

AT_MS = 1_790_000_000_000


def verdict(number: int, **changes: Any) -> Verdict:
    """A stretch of output that passed."""
    passed: dict[str, Any] = {
        "verdict_id": f"modr_{number:032x}",
        "response_id": "resp_1",
        "tenant": "acme",
        "stage": "output",
        "action": "pass",
        "policy": "p-1@00000000",
        "window": number,
        "start": number * 64,
        "end": number * 64 + 64,
        "latency_ms": 2.0,
    }
    return Verdict(**{**passed, **changes})


CUT = verdict(1, action="cut", category="hate", scores={"hate": 0.93}, thresholds={"hate": 0.9}, response_id="resp_2")
CUT_STRETCH = verdict(2, action="cut", scores={"hate": 0.93, "sexual": 0.01}, thresholds={"hate": 0.5, "sexual": 0.4})
REFUSED = verdict(
    3, stage="input", action="refuse", category="hate", scores={"hate": 0.85}, thresholds={"hate": 0.8}, tenant="b"
)
