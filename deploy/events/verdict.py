"""Whether the changes since the last release may stand: breaks only where somebody decided on them and said why."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from deploy.events.consumers import declared, mistakes
from deploy.events.contract import RELEASES, Contract, ContractError, current_contract, last_release
from deploy.events.diff import Change, Kind, changes

ACCEPTED = RELEASES / "accepted_breaks.yaml"


class AcceptedBreak(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`change`: what the diff says of it, word for word; `reason`: why it has to be, and what consumers do about it."""

    change: str
    reason: str


@dataclass(frozen=True)
class Verdict:
    """What the comparison came to. `faults` is empty where the change may stand."""

    last: str
    changes: tuple[Change, ...]
    faults: tuple[str, ...]

    def told(self) -> str:
        """For people: the faults, then what is compatible."""
        kinds = (kind for kind in Kind if any(change.kind is kind for change in self.changes))
        parts = [f"since {self.last}:" if self.changes else f"nothing changed since {self.last}"]
        parts += [line for kind in kinds for line in _section(kind, self.changes)]
        return "\n".join([*parts, *(f"error: {fault}" for fault in self.faults)])


def accepted_breaks(path: Path = ACCEPTED) -> tuple[AcceptedBreak, ...]:
    """Breaks since the last release that were decided on. Raises ContractError."""
    try:
        return tuple(msgspec.yaml.decode(path.read_bytes() or b"[]", type=list[AcceptedBreak] | None) or ())
    except (OSError, msgspec.MsgspecError) as error:
        raise ContractError(f"{path.name}: {error}") from error


def verdict(*, but: str | None = None) -> Verdict:
    """On this working tree, since the last release, or the last `but` for this one. Raises ContractError."""
    last, this, consumers = last_release(but=but), current_contract(), declared()
    found = changes(last, this, consumers)
    wrong = tuple(mistakes(consumers, last))
    return Verdict(last.release, tuple(found), (*wrong, *faults(last, this, found, accepted_breaks())))


def faults(last: Contract, this: Contract, found: Sequence[Change], accepted: Sequence[AcceptedBreak]) -> Iterator[str]:
    """Why the changes may not stand."""
    breaking = {change.what for change in found if change.kind is not Kind.COMPATIBLE}
    decided = {each.change for each in accepted}
    if undecided := breaking - decided:
        what = "a change breaks" if len(undecided) == 1 else f"{len(undecided)} changes break"
        yield f"{what} readers; what can be done instead, or decided, stands in docs/releases/README.md"
    for each in accepted:
        if each.change not in breaking:
            yield f"{ACCEPTED.name}: there is no such break any more: {each.change}"
        if len(each.reason.split()) < 3:
            yield f"{ACCEPTED.name}: say why: {each.change}"
    if breaking and not undecided and this.schema_version <= last.schema_version:
        yield f"SCHEMA_VERSION must rise with these breaks: it is {this.schema_version}, as in {last.release}"


def _section(kind: Kind, found: Sequence[Change]) -> Iterator[str]:
    yield f"\n{kind}:"
    for change in found:
        if change.kind is kind:
            yield f"  {change.what}"
            if change.broken:
                yield f"      breaks {', '.join(change.broken)}"
