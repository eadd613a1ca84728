"""How much a tenant may ask for per minute: a file's limits by tier, and by tenant."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from services.gateway.auth import PRIORITY_OF_TIER
from shared.errors import SettingsError

_VARIABLE = "CHATMESH_RATE_LIMITS"


@dataclass(frozen=True, slots=True)
class Limits:
    """Requests and tokens in any 60 seconds; None is no limit."""

    requests: int | None = None
    tokens: int | None = None

    def __bool__(self) -> bool:
        """Whether there is anything to keep."""
        return self.requests is not None or self.tokens is not None


UNLIMITED = Limits()


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)

    def over(self, base: Limits) -> Limits:
        """`base`, but for what this entry names; null lifts a limit."""
        named = self.model_fields_set
        return Limits(
            self.requests_per_minute if "requests_per_minute" in named else base.requests,
            self.tokens_per_minute if "tokens_per_minute" in named else base.tokens,
        )


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    tiers: dict[str, _Entry] = {}
    tenants: dict[str, _Entry] = {}

    @field_validator("tiers")
    @classmethod
    def _known(cls, tiers: dict[str, _Entry]) -> dict[str, _Entry]:
        unknown = sorted(set(tiers) - set(PRIORITY_OF_TIER))
        if unknown:
            raise ValueError(f"there is no tier '{unknown[0]}'; a key's tier is one of {', '.join(PRIORITY_OF_TIER)}")
        return tiers


@dataclass(frozen=True, slots=True)
class RateLimits:
    """The limits of every (tenant, tier): the tier's, but for what the tenant's own entry names."""

    tiers: dict[str, Limits] = field(default_factory=dict)
    tenants: dict[str, _Entry] = field(default_factory=dict)

    def of(self, tenant: str, tier: str) -> Limits:
        """What this tenant may ask for with keys of this tier."""
        base = self.tiers.get(tier, UNLIMITED)
        own = self.tenants.get(tenant)
        return base if own is None else own.over(base)


def load_rate_limits(path: Path | None) -> RateLimits:
    """The limits in a YAML file `{tiers: {TIER: LIMITS}, tenants: {TENANT: LIMITS}}`; none without a file.

    LIMITS is `{requests_per_minute, tokens_per_minute}`, whole numbers from 1 on, or null for no limit. Raises
    SettingsError that names the variable and the place.
    """
    if path is None:
        return RateLimits()
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        found = _File.model_validate({} if content is None else content)
    except OSError as error:
        raise SettingsError(f"{_VARIABLE}: cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{_VARIABLE}: {path} is no valid YAML: {error}") from error
    except ValidationError as error:
        raise SettingsError(f"{_VARIABLE}: {path}: {_first(error)}") from error
    tiers = {name: entry.over(UNLIMITED) for name, entry in found.tiers.items()}
    return RateLimits(tiers, found.tenants)


def _first(error: ValidationError) -> str:
    issue: Any = error.errors()[0]
    where = ".".join(str(step) for step in issue["loc"]) or "the file"
    return f"{where}: {issue['msg']}"
