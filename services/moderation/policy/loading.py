"""From the policy file to a Policy. Everything wrong is told at once, each with its line and key."""

from pathlib import Path

from services.moderation.policy.checks import contradictions
from services.moderation.policy.compiling import apply_overrides, compile_categories
from services.moderation.policy.model import Policy
from services.moderation.policy.naming import policy_name
from services.moderation.policy.source import PolicyError, Source
from services.moderation.policy.wellformed import validated

DEFAULT_POLICY = Path(__file__).parent.parent / "policies" / "default.yaml"
MAX_BYTES = 1 << 20
"""Of a policy file: it travels as one record."""


def load_policy(path: Path = DEFAULT_POLICY) -> Policy:
    """Read, validate and compile the policy file. Raises PolicyError."""
    return parse_policy(read_policy(path), str(path))


def read_policy(path: Path) -> str:
    """The text of the policy file. Raises PolicyError."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        text = content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"cannot read the moderation policy {path}: {error}") from error
    if len(content) > MAX_BYTES:
        raise PolicyError(f"cannot read the moderation policy {path}: it is longer than {MAX_BYTES:,} bytes")
    return text


def parse_policy(text: str, source: str = "policy") -> Policy:
    """Validate and compile a policy's YAML; `source` names it in errors. Raises PolicyError."""
    file = Source(text, source)
    spec, faults = validated(file.data)
    faults += [*file.duplicates(), *contradictions(spec)]
    categories = compile_categories(spec, faults)
    tenants = apply_overrides(spec, categories, faults)
    if faults:
        raise file.error(faults)
    return Policy(
        name=policy_name(spec),
        version=spec.version,
        streaming=spec.streaming,
        categories=categories,
        backends=spec.backends,
        combine=spec.combine,
        tenants=tenants,
        source=text,
    )
