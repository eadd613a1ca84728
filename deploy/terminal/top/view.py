"""What `top` shows at one moment. Pure: facts in, view out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from deploy.terminal.top.flow import Totals
from deploy.terminal.top.roster import News
from deploy.terminal.top.scrape import Scraped
from shared.heartbeats import Member
from shared.log.progress import GroupProgress
from shared.records import Heartbeat
from shared.topics import Service

_STABLE = "Stable"
_ORDER = {service.value: number for number, service in enumerate(Service)}


@dataclass(frozen=True, slots=True)
class ServiceRow:
    """One process, as its last heartbeat `age_ms` ago shows it; `steps_per_s` of its engine, None if not known yet."""

    id: str
    service: str
    state: str
    detail: str
    age_ms: int
    partitions: tuple[int, ...]
    slots_free: int
    slots_total: int
    claims: int
    waiting: int
    model: str
    steps_per_s: float | None


@dataclass(frozen=True, slots=True)
class GroupRow:
    """One consumer group: all that it has not committed, and the most of it in one partition."""

    group: str
    topic: str
    members: int
    state: str
    lag: int
    worst_partition: int | None
    worst_lag: int

    @property
    def is_well(self) -> bool:
        """Whether it has members that agree, and nothing is left to do."""
        return not self.lag and self.members > 0 and self.state == _STABLE


@dataclass(frozen=True, slots=True)
class View:
    """Everything, at `at_ms` (unix ms). `groups` None: the broker did not say; `scraped` None: no endpoint is known."""

    broker: str
    at_ms: int
    services: tuple[ServiceRow, ...]
    totals: Totals
    groups: tuple[GroupRow, ...] | None
    scraped: Scraped | None
    news: tuple[News, ...]

    @property
    def running(self) -> int:
        """Generations that workers hold."""
        return sum(row.claims for row in self.services)

    @property
    def waiting(self) -> int:
        """Jobs without a slot."""
        return sum(row.waiting for row in self.services)

    @property
    def slots(self) -> tuple[int, int]:
        """Free ones, and all."""
        return sum(row.slots_free for row in self.services), sum(row.slots_total for row in self.services)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        free, total = self.slots
        ours = {"running": self.running, "waiting": self.waiting, "slots_free": free, "slots_total": total}
        return {**asdict(self), **ours, "totals": {**asdict(self.totals), "ended": dict(self.totals.ended)}}


def service_rows(
    members: Iterable[Member], now_ms: int, steps_before: Mapping[str, tuple[int, int]]
) -> tuple[ServiceRow, ...]:
    """Rows, gateways first. `steps_before`: by id, the log's time (ms) and steps of an earlier beat."""
    ordered = sorted(members, key=lambda member: (_ORDER[member.beat.service], member.beat.id))
    return tuple(_service_row(member, now_ms, steps_before.get(member.beat.id)) for member in ordered)


def _service_row(member: Member, now_ms: int, before: tuple[int, int] | None) -> ServiceRow:
    beat = member.beat
    return ServiceRow(
        id=beat.id,
        service=beat.service,
        state=beat.state,
        detail=beat.detail,
        age_ms=max(0, now_ms - member.last_ms),
        partitions=tuple(beat.partitions),
        slots_free=beat.slots_free,
        slots_total=beat.slots_total,
        claims=len(beat.claims),
        waiting=beat.waiting,
        model=beat.model,
        steps_per_s=_rate(beat, member.last_ms, before),
    )


def _rate(beat: Heartbeat, at_ms: int, before: tuple[int, int] | None) -> float | None:
    if before is None or at_ms <= before[0] or not beat.slots_total:
        return None
    return max(0, beat.steps - before[1]) * 1000 / (at_ms - before[0])


def group_rows(progress: Sequence[GroupProgress]) -> tuple[GroupRow, ...]:
    """A row per group."""
    return tuple(_group_row(each) for each in progress)


def _group_row(progress: GroupProgress) -> GroupRow:
    worst = max(progress.lag, key=lambda partition: progress.lag[partition], default=None)
    return GroupRow(
        group=progress.group.name,
        topic=progress.group.topic.name,
        members=progress.members,
        state=progress.state,
        lag=sum(progress.lag.values()),
        worst_partition=worst if worst is not None and progress.lag[worst] else None,
        worst_lag=progress.lag[worst] if worst is not None else 0,
    )
