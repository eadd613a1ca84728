"""What a PromQL expression names: enough of its grammar for our own rules; promtool checks the grammar itself."""

import re
from dataclasses import dataclass

_STRING = re.compile(r'"[^"]*"')
_SELECTOR = re.compile(r"\{([^}]*)\}")
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_RANGE = re.compile(r"\[[^\]]*\]")
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"[a-zA-Z_]\w*(?=\s*(?:=~|!~|!=|=|,|$))")
_WORDS = frozenset({"and", "or", "unless", "bool", "offset", "by", "without", "on", "ignoring"})
_OF_HISTOGRAMS = re.compile(r"_(?:bucket|count|sum)$")


@dataclass(frozen=True, slots=True)
class Names:
    """The metrics (as their series are named) and the labels that an expression mentions, and its `le` values."""

    metrics: frozenset[str]
    labels: frozenset[str]
    bounds: frozenset[float]


def names_in(expr: str) -> Names:
    """What `expr` names."""
    bare = _STRING.sub('""', expr)
    labels = {label for body in _SELECTOR.findall(bare) for label in _LABEL.findall(body)}
    labels |= {label for body in _GROUPING.findall(bare) for label in _NAME.findall(body)}
    rest = _RANGE.sub(" ", _SELECTOR.sub(" ", _GROUPING.sub(" ", bare)))
    metrics = {
        found[0]
        for found in _NAME.finditer(rest)
        if found[0] not in _WORDS and not rest[found.end() :].lstrip().startswith("(") and not _in_number(rest, found)
    }
    bounds = {float(bound) for bound in re.findall(r'le="([^"]*)"', expr)}
    return Names(frozenset(metrics), frozenset(labels), frozenset(bounds))


def _in_number(text: str, found: "re.Match[str]") -> bool:
    return text[: found.start()][-1:].isdigit()


def metric_of(series: str) -> str:
    """The histogram that a series is a part of, or the series itself."""
    return _OF_HISTOGRAMS.sub("", series)
