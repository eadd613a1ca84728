"""A policy that is ready to judge: immutable, named, its patterns compiled."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from services.moderation.policy.regexes import CompiledPattern
from services.moderation.policy.schema import InputAction, OutputAction, PolicySpec, Streaming

WINDOW_RULES = 1
"""Version of the rules in `windows`: part of each policy's digest, because two owners decide alike only if both
the policy and the rules are the same. Raise it with any change of what is released, masked or cut."""


@dataclass(frozen=True, slots=True)
class Category:
    """One category, by OpenAI's name where it has one. `rank` is its place in the file: lower wins ties."""

    name: str
    rank: int
    input: InputAction
    output: OutputAction
    mask: str
    patterns: tuple[CompiledPattern, ...]


@dataclass(frozen=True)
class Policy:
    """What moderation does. `name` is `<version>@<digest>`; it stands in `accepted`, deltas and verdicts."""

    name: str
    version: str
    streaming: Streaming
    categories: Mapping[str, Category]

    def input_action(self, category: str) -> InputAction:
        """What to do about `category` in a prompt; a category that the policy does not know is off."""
        known = self.categories.get(category)
        return "off" if known is None else known.input

    def output_action(self, category: str) -> OutputAction:
        """What to do about `category` in generated text; a category that the policy does not know is off."""
        known = self.categories.get(category)
        return "off" if known is None else known.output

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """Promises that the policy cannot keep, for the log at start: patterns longer than what is held back."""
        return tuple(
            f"policy {self.name}: a match of {category.name}, pattern {pattern.regex.pattern!r}, can be "
            f"{'of any length' if pattern.max_width is None else f'{pattern.max_width} code points long'}, but only "
            f"{self.streaming.hold_back} are held back: the start of a longer one is public before its end is seen"
            for category in self.categories.values()
            if category.output in ("cut", "mask")
            for pattern in category.patterns
            if pattern.max_width is None or pattern.max_width > self.streaming.hold_back
        )


def policy_name(spec: PolicySpec) -> str:
    """`<version>@<8 hex>`: the digest covers all that the file says (not how it is laid out) and WINDOW_RULES, so
    the same label over other rules is another policy."""
    said = spec.model_dump(mode="json", exclude_defaults=True)
    canonical = json.dumps([WINDOW_RULES, said], ensure_ascii=False, separators=(",", ":"))
    return f"{spec.version}@{hashlib.sha256(canonical.encode()).hexdigest()[:8]}"
