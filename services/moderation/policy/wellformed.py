"""What the schema says of a policy file, and what is left of a faulty one for the checks behind it. Pure."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from services.moderation.policy.backend_specs import AnyBackend, BackendSpec
from services.moderation.policy.schema import CategorySpec, PatternSpec, PolicySpec, Streaming, TenantSpec
from services.moderation.policy.source import Fault, Location

S = TypeVar("S")

_IN_YAML = {
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "tuple_type": "must be a list",
    "union_tag_not_found": "the key kind is missing",
}
"""Pydantic's types of errors → what they mean to who writes YAML, where its own words speak of Python."""

_CATEGORY = TypeAdapter(CategorySpec)
_PATTERN = TypeAdapter(PatternSpec)
_STREAMING = TypeAdapter(Streaming)
_TENANT = TypeAdapter(TenantSpec)
_BACKEND: TypeAdapter[BackendSpec] = TypeAdapter(AnyBackend)


def validated(data: Any) -> tuple[PolicySpec, list[Fault]]:
    """The policy, and the faults of its form. With any, it holds only what is well-formed by itself."""
    try:
        return PolicySpec.model_validate(data), []
    except ValidationError as error:
        return _well_formed(data), faults_of(error)


def faults_of(error: ValidationError, at: Location = ()) -> list[Fault]:
    """Pydantic's errors as faults of what stands at `at`."""
    return [
        ((*at, *_path(fault["loc"])), _IN_YAML.get(fault["type"], fault["msg"].removeprefix("Value error, ")))
        for fault in error.errors(include_url=False)
    ]


def _path(location: Sequence[str | int]) -> Location:
    """Without pydantic's word for "this key itself", and the kind that it took a backend for."""
    parts = tuple(part for part in location if part != "[key]")
    return (*parts[:2], *parts[3:]) if parts[:1] == ("backends",) else parts


def _well_formed(data: Mapping[str, Any]) -> PolicySpec:
    """A category that is not well-formed is there all the same, for others may speak of it, with its patterns alone."""
    categories = {name: _one(_CATEGORY, value) for name, value in _items(data, "categories")}
    faulty = {name: _with_patterns(data["categories"][name]) for name in categories if categories[name] is None}
    tenants = {name: _one(_TENANT, value) for name, value in _items(data, "tenants")}
    backends = {name: _one(_BACKEND, value) for name, value in _items(data, "backends")}
    return PolicySpec.model_construct(
        streaming=_one(_STREAMING, data.get("streaming", {})) or Streaming(),
        categories={name: category or faulty[name] for name, category in categories.items()},
        backends={name: spec for name, spec in backends.items() if spec is not None},
        tenants={name: _without(tenant, faulty) for name, tenant in tenants.items() if tenant is not None},
    )


def _with_patterns(category: Any) -> CategorySpec:
    """Each in its place; where one is not well-formed stands one that is harmless."""
    patterns = category.get("patterns") if isinstance(category, dict) else None
    if not isinstance(patterns, list):
        return CategorySpec()
    return CategorySpec(patterns=tuple(_one(_PATTERN, pattern) or PatternSpec(regex="x") for pattern in patterns))


def _items(data: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    found = data.get(key)
    return [(name, value) for name, value in found.items() if isinstance(name, str)] if isinstance(found, dict) else []


def _one(adapter: TypeAdapter[S], value: Any) -> S | None:
    try:
        return adapter.validate_python(value)
    except ValidationError:
        return None  # its faults are told with those of the whole file


def _without(tenant: TenantSpec, faulty: Collection[str]) -> TenantSpec:
    """Over a category whose own thresholds are unknown nothing can be said."""
    kept = {name: override for name, override in tenant.categories.items() if name not in faulty}
    return tenant.model_copy(update={"categories": kept})
