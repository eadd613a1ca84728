"""The owner's watch over a generation: when a new attempt must start (DESIGN 5.3). Pure.

Only the watch starts attempts after the first, so group rebalances never supersede a live generation. All times
are the log's clock in unix milliseconds; all spans are milliseconds, without outages in which nobody was heard.
"""

from dataclasses import dataclass
from enum import Enum

from services.moderation.settings import ModerationSettings
from shared.folds import JournalFold
from shared.heartbeats import Cluster


@dataclass(frozen=True)
class WatchLimits:
    """How long is too long."""

    claim_timeout_ms: int
    silent_after_ms: int
    stuck_after_ms: int
    redispatch_every_ms: int

    @classmethod
    def of(cls, settings: ModerationSettings) -> "WatchLimits":
        """The limits that the settings name, in milliseconds."""
        return cls(
            claim_timeout_ms=int(settings.claim_timeout_s * 1000),
            silent_after_ms=int(settings.silent_after_s * 1000),
            stuck_after_ms=int(settings.stuck_after_s * 1000),
            redispatch_every_ms=int(settings.redispatch_every_s * 1000),
        )


@dataclass(slots=True)
class Timeline:
    """When things last happened to one response. `worker`: to whom its last job went, "" if that is not known."""

    attempt: int = 0
    worker: str = ""
    dispatched_ms: int = 0
    claimed_ms: int = 0
    tokens_ms: int = 0


class Reason(Enum):
    """Why a new attempt starts."""

    FIRST = "first attempt"
    UNCLAIMED = "no claim came in time"
    RELEASED = "the worker released its claim, or it turned out void"
    SILENT = "the worker fell silent"
    FORGOTTEN = "the worker no longer names the claim"
    STUCK = "the worker's engine stands still"


def needs_attempt(fold: JournalFold, times: Timeline, cluster: Cluster, limits: WatchLimits) -> Reason | None:
    """Why the response needs a new attempt now, or None."""
    if times.attempt == 0:
        return Reason.FIRST
    dispatched_for_ms = cluster.elapsed_ms(times.dispatched_ms)
    if dispatched_for_ms < limits.redispatch_every_ms:
        return None
    if fold.owner is None or fold.owner.attempt < times.attempt:
        gone = bool(times.worker) and not cluster.is_alive(times.worker)
        return Reason.UNCLAIMED if gone or dispatched_for_ms > limits.claim_timeout_ms else None
    if not fold.owner.live:
        return Reason.RELEASED
    return _worker_trouble(fold.owner.id, fold.owner.worker, times, cluster, limits)


def _worker_trouble(claim: str, worker: str, times: Timeline, cluster: Cluster, limits: WatchLimits) -> Reason | None:
    spoke_ms = max(times.tokens_ms, times.claimed_ms)
    if cluster.elapsed_ms(spoke_ms) <= min(limits.silent_after_ms, limits.stuck_after_ms):
        return None  # it spoke just now: none of what follows can hold, and this is asked for every token
    member = cluster.members.get(worker)
    heard_ms = max(spoke_ms, member.last_ms if member is not None else 0)
    if cluster.elapsed_ms(heard_ms) > limits.silent_after_ms:
        return Reason.SILENT
    if member is None:
        return None
    # A beat sent before the claim was made cannot name it: judge only beats that are clearly younger.
    younger_by_ms = cluster.elapsed_ms(spoke_ms, member.last_ms)
    if claim not in member.beat.claims and younger_by_ms > limits.silent_after_ms:
        return Reason.FORGOTTEN
    if cluster.elapsed_ms(max(member.stepped_ms, spoke_ms)) > limits.stuck_after_ms:
        return Reason.STUCK
    return None
