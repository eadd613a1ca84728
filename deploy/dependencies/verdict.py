"""What is known to be unsafe, and what of that is accepted for a while. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

ACCEPTED = Path(__file__).with_name("accepted.yaml")


class AuditError(Exception):
    """The audit itself is broken: its list of exceptions, or a tool that says what nobody understands."""


@dataclass(frozen=True, order=True, slots=True)
class Finding:
    """`package` at `version` has a known weakness. `ids`: all names of the advisory."""

    package: str
    version: str
    ids: tuple[str, ...]
    fixed_in: tuple[str, ...] = ()
    where: str = ""

    def __str__(self) -> str:
        fix = f"fixed in {', '.join(self.fixed_in)}" if self.fixed_in else "no fix yet"
        where = f" ({self.where})" if self.where else ""
        return f"{self.package} {self.version}{where}: {', '.join(self.ids)}, {fix}"


class Accepted(BaseModel):
    """A weakness that we live with until a day, and why that is safe enough."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(min_length=1)
    package: str = Field(min_length=1)
    reason: str = Field(min_length=10)
    until: date


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to say: `faults` fail the check, `notes` do not."""

    faults: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())


def load_accepted(path: Path = ACCEPTED) -> list[Accepted]:
    """The list of exceptions. Raises AuditError that names the entry."""
    try:
        listed = yaml.safe_load(path.read_text(encoding="utf-8")) or []
        return TypeAdapter(list[Accepted]).validate_python(listed)
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise AuditError(f"{path.name}: {error}") from error


def judge(findings: Iterable[Finding], accepted: Sequence[Accepted], today: date) -> Verdict:
    """A finding is a fault unless it is accepted; so is an acceptance whose day has passed."""
    faults, notes = [], []
    for finding in sorted(set(findings)):
        match = next(
            (entry for entry in accepted if entry.id in finding.ids and entry.package == finding.package), None
        )
        if match is None:
            faults.append(str(finding))
        elif match.until < today:
            faults.append(f"{finding}: was accepted until {match.until} only ({match.reason})")
        else:
            notes.append(f"{finding}: accepted until {match.until} ({match.reason})")
    return Verdict(tuple(faults), tuple(notes))
