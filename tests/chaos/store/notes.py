"""What clients did to conversations, as they know it: beside the public log, what the store's state follows from."""

from collections.abc import Sequence
from dataclasses import dataclass, field

Line = tuple[str, str]
"""A role and a text; every text is said once in a whole run, so that it names its item."""


@dataclass(frozen=True, slots=True)
class Added:
    """Lines added by a call to the API, sent at `began_ms`; `ended_ms` is None where the client does not know what
    became of it. Unix milliseconds."""

    lines: Sequence[Line]
    began_ms: float
    ended_ms: float | None


@dataclass(frozen=True, slots=True)
class Erased:
    """Lines that a client had erased: it was told so at `ended_ms`, and had asked for it at `began_ms`."""

    lines: frozenset[Line]
    began_ms: float
    ended_ms: float


@dataclass
class Story:
    """One conversation. `deleted`: its client was told that it is gone."""

    id: str
    added: list[Added] = field(default_factory=list)
    erased: list[Erased] = field(default_factory=list)
    deleted: bool = False


@dataclass
class Notes:
    """A whole run. `erased_responses` were deleted by their id; `locked` counts refusals by a held lock, `retried` the
    calls that history did not answer; `odd` are answers that nothing explains."""

    stories: list[Story] = field(default_factory=list)
    erased_responses: set[str] = field(default_factory=set)
    locked: int = 0
    retried: int = 0
    ended: int = 0
    odd: list[str] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
