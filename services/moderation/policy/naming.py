"""How a policy is named: alike wherever it decides alike, otherwise wherever it may decide otherwise."""

import hashlib
import json

from services.moderation.policy.backend_specs import EncoderSpec
from services.moderation.policy.model import WINDOW_RULES
from services.moderation.policy.schema import PolicySpec


def policy_name(spec: PolicySpec) -> str:
    """`<version>@<8 hex>`: the digest covers all that the file says (not how it is laid out), WINDOW_RULES and, where
    the built-in classifier is used, that one's revision, so the same label over other rules is another policy. Raises
    SettingsError where that classifier is not complete."""
    said = spec.model_dump(mode="json", exclude_defaults=True)
    canonical = json.dumps([WINDOW_RULES, said, *_built_in(spec)], ensure_ascii=False, separators=(",", ":"))
    return f"{spec.version}@{hashlib.sha256(canonical.encode()).hexdigest()[:8]}"


def _built_in(spec: PolicySpec) -> list[str]:
    """What decides and is not in the file. Models of others are pinned by their `revision`."""
    if not any(isinstance(backend, EncoderSpec) for backend in spec.backends.values()):
        return []
    from services.moderation.backends.encoder import head_revision  # backends know policies: not the other way round

    return [head_revision()]
