"""From the policy file to a Policy. Everything wrong is told at once, each with its line and key."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from services.moderation.policy.checks import Fault, Location, contradictions
from services.moderation.policy.model import Category, Policy
from services.moderation.policy.naming import policy_name
from services.moderation.policy.regexes import CompiledPattern, PatternError, compile_pattern
from services.moderation.policy.schema import CategorySpec, PolicySpec, TenantSpec
from shared.errors import SettingsError

DEFAULT_POLICY = Path(__file__).parent.parent / "policies" / "default.yaml"
MAX_BYTES = 1 << 20
"""Of a policy file: it travels as one record."""


class PolicyError(SettingsError):
    """The policy file cannot be used; the message lists every fault as `file:line: key: what to do`."""


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
    root = _parse_yaml(text, source)
    _fail(source, root, list(_duplicate_keys(root)))
    try:
        spec = PolicySpec.model_validate(yaml.safe_load(text))
    except ValidationError as error:
        raise _policy_error(source, root, _faults(error)) from error
    return _compile(spec, text, source, root)


def _parse_yaml(text: str, source: str) -> yaml.Node:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise PolicyError(f"{source}: not YAML: {error}") from error
    if not isinstance(root, yaml.MappingNode):
        raise PolicyError(f"{source}: must be a mapping with the keys version, streaming and categories")
    return root


def _compile(spec: PolicySpec, text: str, source: str, root: yaml.Node) -> Policy:
    faults = list(contradictions(spec))
    categories = {
        name: _category(name, rank, category, _patterns(name, category, spec, faults))
        for rank, (name, category) in enumerate(spec.categories.items())
    }
    tenants = {
        tenant: {**categories, **_overridden(tenant, of_tenant, spec, categories, faults)}
        for tenant, of_tenant in spec.tenants.items()
    }
    _fail(source, root, faults)
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


def _category(name: str, rank: int, spec: CategorySpec, patterns: tuple[CompiledPattern, ...]) -> Category:
    return Category(name, rank, spec.input, spec.output, spec.mask, patterns, spec.thresholds)


def _overridden(
    tenant: str, overrides: TenantSpec, spec: PolicySpec, categories: Mapping[str, Category], faults: list[Fault]
) -> dict[str, Category]:
    """The categories that this tenant has otherwise. What is looked for is the same for all."""
    overridden = {}
    for name, override in overrides.categories.items():
        if name not in spec.categories:
            continue  # one of the contradictions
        try:
            merged = CategorySpec.model_validate(override.over(spec.categories[name]))
        except ValidationError as error:
            faults += [(("tenants", tenant, "categories", name, *at), message) for at, message in _faults(error)]
        else:
            overridden[name] = _category(name, categories[name].rank, merged, categories[name].patterns)
    return overridden


def _patterns(name: str, category: CategorySpec, spec: PolicySpec, faults: list[Fault]) -> tuple[CompiledPattern, ...]:
    compiled = []
    for index, pattern in enumerate(category.patterns):
        try:
            compiled.append(compile_pattern(pattern.regex, pattern.re_flags, spec.streaming.lookback, raw=pattern.raw))
        except PatternError as error:
            faults.append((("categories", name, "patterns", index), f"the pattern {pattern.regex!r} {error}"))
    return tuple(compiled)


def _duplicate_keys(node: yaml.Node, at: Location = ()) -> Iterator[Fault]:
    """YAML keeps the last of two equal keys and says nothing: half of a policy would be gone."""
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _duplicate_keys(item, (*at, index))
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        if key.value in seen:
            yield (*at, key.value), f"the key stands here a second time, on line {key.start_mark.line + 1}; merge them"
        seen.add(key.value)
        yield from _duplicate_keys(value, (*at, key.value))


def _faults(error: ValidationError) -> list[Fault]:
    return [
        (_path(fault["loc"]), fault["msg"].removeprefix("Value error, ")) for fault in error.errors(include_url=False)
    ]


def _path(location: Sequence[str | int]) -> Location:
    """Of pydantic's location: without its word for "this key itself" and the kind that it took a backend for."""
    parts = tuple(part for part in location if part != "[key]")
    return (*parts[:2], *parts[3:]) if parts[:1] == ("backends",) else parts


def _fail(source: str, root: yaml.Node, faults: Sequence[Fault]) -> None:
    if faults:
        raise _policy_error(source, root, faults)


def _policy_error(source: str, root: yaml.Node, faults: Sequence[Fault]) -> PolicyError:
    lines = [
        f"{source}:{_line(root, location)}: {'.'.join(map(str, location)) or 'the file'}: {message}"
        for location, message in faults
    ]
    return PolicyError("the moderation policy cannot be used\n" + "\n".join(lines))


def _line(node: yaml.Node, location: Location) -> int:
    """Line (from 1) of the deepest part of `location` that the file has."""
    line = node.start_mark.line
    for part in location:
        child = _child(node, part)
        if child is None:
            break
        line, node = child
    return line + 1


def _child(node: yaml.Node, part: str | int) -> tuple[int, Any] | None:
    if isinstance(node, yaml.MappingNode):
        return next(((key.start_mark.line, value) for key, value in node.value if key.value == part), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        item = node.value[part]
        return item.start_mark.line, item
    return None
