"""The policy file as it is written (YAML), before its patterns are compiled. Lengths count code points.

Defaults here are part of every policy that omits them, and of its digest: never change one, add a new key.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from services.moderation.policy.backend_specs import AnyBackend, CategoryName, Section

InputAction = Literal["refuse", "flag", "off"]
OutputAction = Literal["cut", "mask", "flag", "off"]
Combine = Literal["maximum", "any"]
FlagName = Literal["ignorecase", "multiline", "dotall", "ascii"]

_FLAGS: dict[str, re.RegexFlag] = {
    "ignorecase": re.IGNORECASE,
    "multiline": re.MULTILINE,
    "dotall": re.DOTALL,
    "ascii": re.ASCII,
}


def _off_is_a_word(value: Any) -> Any:
    # YAML 1.1 reads a bare `off` as the boolean false.
    return "off" if value is False else value


_Off = BeforeValidator(_off_is_a_word)
Score = Annotated[float, Field(gt=0, le=1)]
Mask = Annotated[str, Field(min_length=1, max_length=200)]
BackendName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
TenantName = Annotated[str, Field(min_length=1, max_length=256)]


class PatternSpec(Section):
    """One regular expression; a plain string in the file means the default flags."""

    regex: str = Field(min_length=1)
    flags: tuple[FlagName, ...] = Field(default=("ignorecase",), strict=False)
    raw: bool = Field(default=False, description="look at the text as it was written only, not at its normal form too")

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        if not isinstance(value, str | dict):
            raise ValueError("must be a regular expression in quotes, or a mapping with the key regex")
        return {"regex": value} if isinstance(value, str) else value

    @property
    def re_flags(self) -> re.RegexFlag:
        combined = re.NOFLAG
        for flag in self.flags:
            combined |= _FLAGS[flag]
        return combined


class Thresholds(Section):
    """From which score on a category is flagged, and from which on its own action is taken: `cut` for output, `refuse`
    for input. A pattern's score is 1."""

    flag: Score = 0.5
    cut: Score = 0.9
    refuse: Score | None = Field(default=None, description="as `cut` where it is not given")

    @property
    def refuse_from(self) -> float:
        return self.cut if self.refuse is None else self.refuse

    @model_validator(mode="after")
    def _flags_first(self) -> "Thresholds":
        if self.flag > min(self.cut, self.refuse_from):
            raise ValueError(
                f"flag is {self.flag:g}, but must not be above cut ({self.cut:g}) and refuse ({self.refuse_from:g}): "
                "what is cut or refused is flagged too"
            )
        return self


class CategorySpec(Section):
    """What is looked for, and what is done about it in the input and in the output. Without patterns, a category
    speaks of what a backend finds."""

    patterns: tuple[PatternSpec, ...] = Field(default=(), strict=False)
    thresholds: Thresholds = Thresholds()
    input: Annotated[InputAction, _Off] = "off"
    output: Annotated[OutputAction, _Off] = "off"
    mask: Mask = "[removed]"


class ThresholdsOverride(Section):
    """What a tenant has otherwise; what is not given is the policy's."""

    flag: Score | None = None
    cut: Score | None = None
    refuse: Score | None = None


class CategoryOverride(Section):
    """What a tenant has otherwise in one category. What is looked for is the same for all."""

    thresholds: ThresholdsOverride = ThresholdsOverride()
    input: Annotated[InputAction, _Off] | None = None
    output: Annotated[OutputAction, _Off] | None = None
    mask: Mask | None = None

    def over(self, category: CategorySpec) -> dict[str, Any]:
        """The category as the tenant has it, as a file would say it (a CategorySpec validates it)."""
        thresholds = {**category.thresholds.model_dump(), **self.thresholds.model_dump(exclude_none=True)}
        return {**category.model_dump(), **self.model_dump(exclude_none=True), "thresholds": thresholds}


class TenantSpec(Section):
    """What one tenant has otherwise."""

    categories: dict[CategoryName, CategoryOverride]


class Streaming(Section):
    """How output is cut into windows: one every `stride`, each seeing the last `lookback` code points; the newest
    `hold_back` stay unpublished, so that a violation is seen whole before its first letter is public."""

    stride: int = Field(default=16, ge=1, le=4_096)
    lookback: int = Field(default=512, ge=2, le=16_384)
    hold_back: int = Field(default=96, ge=0, le=8_192)
    checkpoint: int = Field(default=64, ge=1, le=8_192, description="backends judge a window every so many code points")

    @model_validator(mode="after")
    def _sees_what_it_holds(self) -> "Streaming":
        if self.lookback < self.hold_back + self.stride:
            raise ValueError(
                f"lookback is {self.lookback}, but must be at least hold_back + stride = "
                f"{self.hold_back + self.stride}: a window must see whole what the one before it held back"
            )
        return self


class PolicySpec(Section):
    """The whole file. The order of the categories decides which one a tie is reported under."""

    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    streaming: Streaming = Streaming()
    categories: dict[CategoryName, CategorySpec]
    backends: dict[BackendName, AnyBackend] = Field(default={}, max_length=16)
    combine: Combine = "maximum"
    tenants: dict[TenantName, TenantSpec] = {}
