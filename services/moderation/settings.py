"""Settings of the moderation service."""

from pathlib import Path

from pydantic import Field

from services.moderation.policy import DEFAULT_POLICY
from shared.settings import MeshSettings


class ModerationSettings(MeshSettings):
    """The owner's clocks and bounds; defaults are those of DESIGN 10."""

    policy: Path = Field(DEFAULT_POLICY, description="policy file (YAML)")
    policy_reload_s: float = Field(
        2.0, ge=0, description="how often to look whether the policy file changed; 0: only on SIGHUP"
    )
    claim_timeout_s: float = Field(2.0, gt=0, description="a job that nobody claims for so long is sent anew")
    stuck_after_s: float = Field(30.0, gt=0, description="an engine that makes no step for so long is stuck")
    redispatch_every_s: float = Field(0.5, gt=0, description="at most one new attempt per response in so long")
    foreground_grace_s: float = Field(10.0, ge=0, description="without followers for so long, a response is cancelled")
    max_waiting: int = Field(
        256, ge=0, description="jobs that may wait for a slot here; more are refused with 429; 0: no bound"
    )
    queries_at_once: int = Field(
        4, ge=1, le=1000, description="requests of /v1/moderations judged at once here; more wait in the log"
    )
    classifier_threads: int = Field(
        1, ge=1, description="cores for classifiers, built-in or not; engines on the same machine need the others"
    )
    tick_ms: int = Field(50, ge=5, le=1000, description="how often the watch looks")
    commit_every_s: float = Field(1.0, gt=0, description="how often the low watermark is committed")
