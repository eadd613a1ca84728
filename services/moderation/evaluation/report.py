"""The figures as Markdown, and as JSON. Pure."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from services.moderation.evaluation.metrics import Confusion, Interval
from services.moderation.evaluation.overshoot import QUANTILES, Overshoot, Spread
from services.moderation.evaluation.quality import MEASURES, Quality
from shared.records import CategorySource


def quality_table(qualities: Sequence[Quality], sources: dict[str, CategorySource]) -> str:
    """How well scores tell texts apart (with intervals), and how far they are probabilities."""
    head = ["category", "scores by", "texts", "positive", *MEASURES, "calibration error"]
    return "\n".join([*_head(head), *(_quality_row(each, sources) for each in qualities)])


def _quality_row(quality: Quality, sources: dict[str, CategorySource]) -> str:
    intervals = [_interval(quality.measures[name]) for name in MEASURES]
    source = sources.get(quality.category, "")
    return _row(
        quality.category, source, quality.texts, quality.positives, *intervals, _number(quality.calibration_error)
    )


def threshold_table(qualities: Sequence[Quality]) -> str:
    """What the policy's thresholds come to."""
    head = ["at the policy's thresholds", "", "precision", "recall", "false positives", "of harmless texts"]
    rows = [row for each in qualities for row in _threshold_rows(each)]
    return "\n".join([*_head(head), *rows])


def _threshold_rows(quality: Quality) -> Iterator[str]:
    for name, confusion in (("flag", quality.flag), ("cut", quality.cut)):
        if confusion is not None:
            yield _row(quality.category, name, *_rates(confusion))


def _rates(confusion: Confusion) -> tuple[str, ...]:
    rate = confusion.false_positive_rate
    return (
        _number(confusion.precision),
        _number(confusion.recall),
        str(confusion.false_positives),
        "" if math.isnan(rate) else f"{rate:.1%}",
    )


def overshoot_table(by_policy: dict[str, Overshoot]) -> str:
    """What left before the cut, by how the policy was asked."""
    head = ["streamed", *by_policy]
    rows: dict[str, list[str]] = {}
    for found in by_policy.values():
        for name, value in _overshoot(found):
            rows.setdefault(name, []).append(value)
    return "\n".join([*_head(head), *(_row(name, *values) for name, values in rows.items())])


def _overshoot(found: Overshoot) -> Iterator[tuple[str, str]]:
    yield "texts with an offence", str(found.offending)
    yield "of these cut", _of(found.cut, found.offending)
    yield "never cut", _of(found.offending - found.cut, found.offending)
    yield "left of the offence and what follows, code points", _spread(found.told)
    yield "left behind the end of the first offence", _spread(found.past)
    yield "lost of the clean text before it", _spread(found.lost)
    yield "texts without an offence", str(found.clean)
    yield "of these cut all the same", _of(found.clean_cut, found.clean)


def figures(qualities: Sequence[Quality], by_policy: dict[str, Overshoot]) -> dict[str, Any]:
    """For JSON, which has no NaN."""
    told = {
        "qualities": [asdict(each) for each in qualities],
        "overshoot": {k: asdict(v) for k, v in by_policy.items()},
    }
    return _without_nan(told)  # type: ignore[no-any-return]


def _without_nan(value: Any) -> Any:
    match value:
        case dict():
            return {key: _without_nan(one) for key, one in value.items()}
        case list() | tuple():
            return [_without_nan(one) for one in value]
        case float() if math.isnan(value):
            return None
    return value


def _head(names: Sequence[str]) -> list[str]:
    return [_row(*names), "|---" * len(names) + "|"]


def _row(*cells: object) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _interval(interval: Interval) -> str:
    if math.isnan(interval.value):
        return ""
    return f"**{_number(interval.value)}** ({_number(interval.low)}–{_number(interval.high)})"


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"


def _of(part: int, whole: int) -> str:
    return f"{part} ({part / whole:.1%})" if whole else "0"


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return ""
    names = ["median" if q == 0.5 else "at most" if q == 1 else f"{q:.0%} ≤" for q in QUANTILES]
    told = ", ".join(f"{name} {value:.0f}" for name, value in zip(names, spread.quantiles, strict=True))
    return f"none in {spread.none:.0%}; {told}"
