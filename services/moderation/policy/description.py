"""A policy in words and tables, for whoever wrote it. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from services.moderation.policy.backend_specs import BackendSpec
from services.moderation.policy.model import Category, Policy

_HEAD = ("category", "input", "output", "flag", "cut", "refuse", "patterns", "backends")
_BACKEND_HEAD = ("backend", "kind", "timeout_s", "on failure", "model or service", "categories")
_OWN = "(its own, of OpenAI's)"


def describe(policy: Policy) -> str:
    """What the policy does, as `python -m services.moderation.policy check` prints it."""
    streaming = policy.streaming
    lines = [
        f"policy {policy.name}",
        f"windows: every {streaming.stride} code points over the last {streaming.lookback}, "
        f"the newest {streaming.hold_back} held back" + (_checkpoints(policy) if policy.backends else ""),
        "",
        *_table(_HEAD, _rows(policy, policy.categories.values())),
    ]
    if policy.backends:
        lines += ["", *_table(_BACKEND_HEAD, [_backend_row(name, spec) for name, spec in policy.backends.items()])]
    for tenant, categories in policy.tenants.items():
        changed = [category for name, category in categories.items() if category != policy.categories[name]]
        lines += ["", f"tenant {tenant}, otherwise:", *_table(_HEAD, _rows(policy, changed))]
    return "\n".join([*lines, *(f"\nwarning: {warning}" for warning in policy.warnings)])


class LoadedBackend(Protocol):
    """What is told of a backend that was started."""

    name: str
    revision: str
    categories: frozenset[str]


def describe_backend(backend: LoadedBackend, took_s: float) -> str:
    """What a backend turned out to be, on one line. `took_s`: how long it took to start."""
    categories = ", ".join(sorted(backend.categories))
    return f"{backend.name}: revision {backend.revision or 'unknown'}, started in {took_s:.1f} s, judges {categories}"


def _checkpoints(policy: Policy) -> str:
    together = "the highest score counts"
    if policy.combine == "any":
        together += ", and what a backend itself calls a violation is flagged"
    return f"; backends judge every {policy.streaming.checkpoint}, {together}"


def _rows(policy: Policy, categories: Iterable[Category]) -> list[tuple[str, ...]]:
    return [_row(category, policy.finders(category.name)) for category in categories]


def _row(category: Category, finders: Sequence[str]) -> tuple[str, ...]:
    thresholds = category.thresholds
    numbers = (thresholds.flag, thresholds.cut, thresholds.refuse_from)
    output = f'mask as "{category.mask}"' if category.output == "mask" else category.output
    patterns = str(len(category.patterns)) if category.patterns else "-"
    return category.name, category.input, output, *(f"{n:g}" for n in numbers), patterns, ", ".join(finders) or "-"


def _backend_row(name: str, spec: BackendSpec) -> tuple[str, ...]:
    where = getattr(spec, "base_url", None) or getattr(spec, "model", None) or "built in"
    meant = ", ".join(dict.fromkeys(spec.meant.values())) or _OWN
    return name, spec.kind, f"{spec.timeout_s:g}", spec.on_failure, where, meant


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The rows in columns as wide as their widest cell."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
