"""A policy that is ready to judge: immutable, named, its patterns compiled."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from services.moderation.policy.backend_specs import BackendSpec
from services.moderation.policy.regexes import CompiledPattern
from services.moderation.policy.schema import Combine, InputAction, OutputAction, Streaming, Thresholds
from shared.records import MODERATION_CATEGORIES, ModerationWish

WINDOW_RULES = 2
"""Version of the rules in `windows`, `normaliser` and `judging`: part of each policy's digest, because two owners
decide alike only if both the policy and the rules are the same. Raise it with any change of what is found, released,
masked or cut."""


@dataclass(frozen=True, slots=True)
class Category:
    """One category, by OpenAI's name where it has one. `rank` is its place in the file: lower wins ties."""

    name: str
    rank: int
    input: InputAction
    output: OutputAction
    mask: str
    patterns: tuple[CompiledPattern, ...]
    thresholds: Thresholds = field(default_factory=Thresholds)

    def input_action(self, score: float) -> InputAction:
        """What to do about a prompt of this score: nothing below `flag`, the category's own action from `refuse` on."""
        if self.input == "off" or score < self.thresholds.flag:
            return "off"
        return self.input if score >= self.thresholds.refuse_from else "flag"

    def output_action(self, score: float) -> OutputAction:
        """What to do about generated text of this score: nothing below `flag`, the category's own action from `cut`."""
        if self.output == "off" or score < self.thresholds.flag:
            return "off"
        return self.output if score >= self.thresholds.cut else "flag"


@dataclass(frozen=True)
class Policy:
    """What moderation does. `name` is `<version>@<digest>`; it stands in `accepted`, deltas and verdicts.

    `source` is the file. `tenants`: all categories of each tenant that the file has rules of its own for. What `of` and
    `asked` derive keeps the name: what is decided follows from the text, the policy's name, the tenant and the request.
    The same arguments always give the same object.
    """

    name: str
    version: str
    streaming: Streaming
    categories: Mapping[str, Category]
    backends: Mapping[str, BackendSpec] = field(default_factory=dict)
    combine: Combine = "maximum"
    tenants: Mapping[str, Mapping[str, Category]] = field(default_factory=dict)
    source: str = ""

    def of(self, tenant: str) -> "Policy":
        """The policy as it is for this tenant."""
        return self._of_tenant.get(tenant, self)

    def asked(self, wish: ModerationWish | None) -> "Policy":
        """The policy as a request wants it, which is never laxer. "block": whatever of OpenAI's categories would be
        flagged is refused or cut; categories of the operator's own are as they are."""
        blocked = (wish is not None and wish.input == "block", wish is not None and wish.output == "block")
        return self._blocking[blocked]

    def flagged(self, category: str, score: float) -> bool:
        """Whether a client is told that the text is of `category`, whatever is done about it."""
        known = self.categories.get(category)
        return known is not None and score >= known.thresholds.flag

    def input_action(self, category: str, score: float = 1.0) -> InputAction:
        """What to do about `category` in a prompt; a category that the policy does not know is off. A pattern's score
        is 1."""
        known = self.categories.get(category)
        return "off" if known is None else known.input_action(score)

    def output_action(self, category: str, score: float = 1.0) -> OutputAction:
        """What to do about `category` in generated text; a category that the policy does not know is off."""
        known = self.categories.get(category)
        return "off" if known is None else known.output_action(score)

    def finders(self, category: str) -> tuple[str, ...]:
        """The backends that may find it."""
        return tuple(name for name, spec in self.backends.items() if category in spec.finds)

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """Promises that the policy cannot keep, for the log at start."""
        return tuple(f"policy {self.name}: {warning}" for warning in (*self._too_long(), *self._unfound()))

    def _too_long(self) -> Iterator[str]:
        for category in self.categories.values():
            if not any(variant.output in ("cut", "mask") for variant in self._variants(category.name)):
                continue
            for pattern in category.patterns:
                if pattern.max_width is None or pattern.max_width > self.streaming.hold_back:
                    width = "of any length" if pattern.max_width is None else f"{pattern.max_width} code points long"
                    yield (
                        f"a match of {category.name}, pattern {pattern.regex.pattern!r}, can be {width}, but only "
                        f"{self.streaming.hold_back} are held back: the start of a longer one is public before its end "
                        "is seen"
                    )

    def _unfound(self) -> Iterator[str]:
        for category in self.categories.values():
            acts = any((variant.input, variant.output) != ("off", "off") for variant in self._variants(category.name))
            if acts and not category.patterns and not self.finders(category.name):
                yield f"nothing looks for {category.name}: it has no patterns, and no backend's labels name it"

    def _variants(self, category: str) -> Iterator[Category]:
        yield from (categories[category] for categories in (self.categories, *self.tenants.values()))

    @cached_property
    def _of_tenant(self) -> Mapping[str, "Policy"]:
        return {tenant: replace(self, categories=categories, tenants={}) for tenant, categories in self.tenants.items()}

    @cached_property
    def _blocking(self) -> Mapping[tuple[bool, bool], "Policy"]:
        variants = {wanted: self._blocks(*wanted) for wanted in ((True, False), (False, True), (True, True))}
        return {(False, False): self, **variants}

    def _blocks(self, of_input: bool, of_output: bool) -> "Policy":
        blocking = {
            name: _blocking(category, of_input, of_output) if name in MODERATION_CATEGORIES else category
            for name, category in self.categories.items()
        }
        return replace(self, categories=blocking, tenants={})


def _blocking(category: Category, of_input: bool, of_output: bool) -> Category:
    old = category.thresholds
    return replace(
        category,
        input="refuse" if of_input else category.input,
        output="cut" if of_output else category.output,
        thresholds=Thresholds(
            flag=old.flag,
            cut=old.flag if of_output else old.cut,
            refuse=old.flag if of_input else old.refuse_from,
        ),
    )
