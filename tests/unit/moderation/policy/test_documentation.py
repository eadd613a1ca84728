"""docs/policies.md says what the schema says: every key, every default, and examples that can be used."""

import re
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from services.moderation.policy import DEFAULT_POLICY, load_policy, parse_policy
from services.moderation.policy.backend_specs import (
    EncoderSpec,
    GuardSpec,
    PersonalDataSpec,
    SecretsSpec,
    TextClassificationSpec,
    UpstreamSpec,
)
from services.moderation.policy.schema import (
    CategorySpec,
    PatternSpec,
    PolicySpec,
    Streaming,
    TenantSpec,
    Thresholds,
)

PAGE = Path(__file__).resolve().parents[4] / "docs" / "policies.md"
COMMON = {"kind", "timeout_s", "on_failure"}
SECTIONS: dict[str, type[BaseModel]] = {
    "The file": PolicySpec,
    "`streaming`": Streaming,
    "A category": CategorySpec,
    "`thresholds`": Thresholds,
    "A pattern": PatternSpec,
    "`encoder`": EncoderSpec,
    "`text-classification`": TextClassificationSpec,
    "`guard`": GuardSpec,
    "`upstream`": UpstreamSpec,
    "`personal-data`": PersonalDataSpec,
    "`secrets`": SecretsSpec,
    "`tenants`": TenantSpec,
}
IN_WORDS = {"all defaults", "none", "as `cut`", "the latest", "the model's own"}
"""Defaults that are empty, or stand elsewhere."""


def sections(page: str) -> dict[str, dict[str, str]]:
    """Heading → key → default, of the tables of keys."""
    found: dict[str, dict[str, str]] = {}
    for part in re.split(r"^#{2,4} ", page, flags=re.MULTILINE)[1:]:
        heading = part.splitlines()[0]
        table = re.findall(r"^\| `(\w+)` \| (.*?) \| .* \|$", part, flags=re.MULTILINE)
        found[heading] = dict(table)
    return found


def differences(page: str) -> list[str]:
    """What the page says otherwise than the schema."""
    documented = sections(page)
    found = [f"common keys: {set(documented['`backends`'])}"] if set(documented["`backends`"]) != COMMON else []
    for heading, model in SECTIONS.items():
        keys = set(model.model_fields)
        wanted = keys - COMMON if "kind" in keys else keys
        found += [f"{heading}: {key}" for key in wanted ^ set(documented.get(heading, {}))]
        found += [
            f"{heading}: {key} is by default {default}"
            for key, default in documented.get(heading, {}).items()
            if key in keys and not is_default(model, key, default)
        ]
    return found


def is_default(model: type[BaseModel], key: str, told: str) -> bool:
    field = model.model_fields[key]
    if told == "required" or field.is_required():
        return told == "required" and field.is_required()
    default = field.get_default()
    if told in IN_WORDS:
        return default in (None, (), {}) or isinstance(default, BaseModel)
    said = told.strip("`")
    if isinstance(default, str):
        return said == default
    return bool(yaml.safe_load(said) == (list(default) if isinstance(default, tuple) else default))


def test_every_key_and_default_is_documented() -> None:
    assert differences(PAGE.read_text()) == []


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("| `stride` |", "| `strides` |", {"`streaming`: stride", "`streaming`: strides"}),
        ("| `flag` | `0.5`", "| `flag` | `0.6`", {"`thresholds`: flag is by default `0.6`"}),
        ("| `regex` | required", "| `regex` | none", {"A pattern: regex is by default none"}),
        ("| `timeout_s` | `2.0`", "| `timeout` | `2.0`", {"common keys"}),
    ],
)
def test_the_comparison_can_fail(old: str, new: str, told: set[str]) -> None:
    page = PAGE.read_text()
    assert old in page
    assert {difference.partition(": {")[0] for difference in differences(page.replace(old, new))} == told


EXAMPLES: list[str] = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_every_example_can_be_put_into_a_policy(example: str) -> None:
    said = yaml.safe_load(example)
    own = said.pop("categories", {})
    of_openai = {
        name: {"output": "flag", "patterns": ["x"]}
        for name in ("harassment", "harassment/threatening", "hate", "violence", "sexual")
    }
    whole = {"version": "example", "categories": {**of_openai, **own}, **said}
    policy = parse_policy(yaml.safe_dump(whole, sort_keys=False))
    assert policy.warnings == () and (policy.backends or policy.tenants)


def test_each_kind_has_an_example() -> None:
    backends = [yaml.safe_load(example).get("backends", {}) for example in EXAMPLES]
    kinds = {spec["kind"] for named in backends for spec in named.values()}
    assert kinds == {heading.strip("`") for heading, model in SECTIONS.items() if "kind" in model.model_fields}


@pytest.mark.parametrize("path", sorted(DEFAULT_POLICY.parent.rglob("*.yaml")), ids=lambda path: path.stem)
def test_what_is_shipped_can_be_copied(path: Path) -> None:
    assert load_policy(path).warnings == ()
