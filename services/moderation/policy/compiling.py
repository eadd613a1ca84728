"""From what a policy file says to what it does: patterns compiled, tenants' overrides applied. Pure."""

from pydantic import ValidationError

from services.moderation.policy.model import Category
from services.moderation.policy.regexes import CompiledPattern, PatternError, compile_pattern
from services.moderation.policy.schema import CategorySpec, PolicySpec
from services.moderation.policy.source import Fault
from services.moderation.policy.wellformed import faults_of

Categories = dict[str, Category]


def compile_categories(spec: PolicySpec, faults: list[Fault]) -> Categories:
    """The categories in the order of the file. What is wrong with their patterns is added to `faults`."""
    return {
        name: _category(name, rank, category, _patterns(name, category, spec.streaming.lookback, faults))
        for rank, (name, category) in enumerate(spec.categories.items())
    }


def apply_overrides(spec: PolicySpec, categories: Categories, faults: list[Fault]) -> dict[str, Categories]:
    """All categories of each tenant that has rules of its own. What is looked for is the same for all."""
    return {tenant: {**categories, **_overridden(spec, tenant, categories, faults)} for tenant in spec.tenants}


def _overridden(spec: PolicySpec, tenant: str, categories: Categories, faults: list[Fault]) -> Categories:
    overridden = {}
    for name, override in spec.tenants[tenant].categories.items():
        if name not in categories:
            continue  # one of the contradictions
        try:
            merged = CategorySpec.model_validate(override.over(spec.categories[name]))
        except ValidationError as error:
            faults += faults_of(error, ("tenants", tenant, "categories", name))
        else:
            overridden[name] = _category(name, categories[name].rank, merged, categories[name].patterns)
    return overridden


def _category(name: str, rank: int, spec: CategorySpec, patterns: tuple[CompiledPattern, ...]) -> Category:
    return Category(name, rank, spec.input, spec.output, spec.mask, patterns, spec.thresholds)


def _patterns(name: str, category: CategorySpec, lookback: int, faults: list[Fault]) -> tuple[CompiledPattern, ...]:
    compiled = []
    for index, pattern in enumerate(category.patterns):
        try:
            compiled.append(compile_pattern(pattern.regex, pattern.re_flags, lookback, raw=pattern.raw))
        except PatternError as error:
            faults.append((("categories", name, "patterns", index), f"the pattern {pattern.regex!r} {error}"))
    return tuple(compiled)
