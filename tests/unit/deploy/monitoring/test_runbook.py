"""What docs/runbook.md looks for in logs is what services can write. tests/deploy/monitoring executes its commands.

A `grep` that finds nothing looks as if all were well, so nobody would notice that a message has other words now.
"""

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.deploy.monitoring.files import ROOT, RUNBOOK

_LEVELS = {
    **{name: name.upper() for name in ("debug", "info", "warning", "error", "critical")},
    "exception": "ERROR",
}
_LOGGERS = ("log", "_log")
_SEARCH = re.compile(r"""^\$ grep (?:-h|-o|-E| )*(?:'([^']+)'|(\w+)) "\$LOGS"/([a-z]*)\*\.log""", re.MULTILINE)
_PLACEHOLDER = re.compile(r"%(?:\.\d+)?[sdrfg]")


@dataclass(frozen=True)
class Search:
    """One thing that is looked for, of the several that a pattern may name. `service` "": in the logs of all."""

    pattern: str
    service: str


def searches(markdown: str) -> list[Search]:
    """Everything that the runbook looks for in logs, each once."""
    found = [
        Search(one, service)
        for quoted, word, service in _SEARCH.findall(markdown)
        for one in alternatives(quoted or word)
    ]
    return list(dict.fromkeys(found))


def alternatives(pattern: str) -> list[str]:
    """Of `a (b|c)`: `a b` and `a c`. Pure."""
    group = re.search(r"\(([^()]*)\)", pattern)
    if group is None:
        return pattern.split("|")
    return [
        each
        for one in group[1].split("|")
        for each in alternatives(pattern[: group.start()] + one + pattern[group.end() :])
    ]


@functools.cache
def lines_of(service: str) -> list[str]:
    """A line for each place where the service (all of them) or `shared` logs; ids stand for what is filled in."""
    folders = [ROOT / "services" / service, ROOT / "shared"]
    return [line for folder in folders for path in folder.rglob("*.py") for line in lines_in(path)]


def lines_in(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name) | ast.Attribute(attr=name), attr=method)):
                if name in _LOGGERS and method in (*_LEVELS, "log"):
                    level, said = levels_and_words(method, node.args)
                    yield from (f"{level} {_PLACEHOLDER.sub('resp_0', words)}" for words in said)


def levels_and_words(method: str, args: list[ast.expr]) -> tuple[str, list[str]]:
    """What `log.warning(…)` or `log.log(level, …)` may be called with: the level or levels, and the messages."""
    if method == "log":
        level, *args = args
        levels = [node.attr for node in ast.walk(level) if isinstance(node, ast.Attribute)]
    else:
        levels = [_LEVELS[method]]
    words = [node.value for node in ast.walk(args[0]) if isinstance(node, ast.Constant)]
    return "/".join(levels), [each for each in words if isinstance(each, str)]


SEARCHES = searches(RUNBOOK.read_text())


@pytest.mark.parametrize("search", SEARCHES, ids=lambda search: f"{search.service or 'all'}: {search.pattern}")
def test_what_is_looked_for_can_be_found(search: Search) -> None:
    assert [line for line in lines_of(search.service) if re.search(search.pattern, line)]


def test_every_search_in_logs_is_looked_at() -> None:
    lines = [line for line in RUNBOOK.read_text().splitlines() if "grep" in line and "$LOGS" in line]
    assert [line for line in lines if not searches(line)] == []
    assert len(SEARCHES) >= 10


def test_a_search_for_what_nobody_says_would_be_seen() -> None:
    (known, unknown) = searches("""$ grep -h -E 'backend .* (hangs|sulks)' "$LOGS"/moderation*.log | tail -5""")
    lines = lines_of(known.service)
    assert [bool([line for line in lines if re.search(one.pattern, line)]) for one in (known, unknown)] == [True, False]
