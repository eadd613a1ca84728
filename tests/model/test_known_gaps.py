"""What the explorer found in the shipped rules, each with the change that mends it within the same bounds.

All four need an owner that paused and goes on beside its successor. A gap that is mended fails here (strict): its
rule becomes the default in `Rules`, or the variant goes, and the case moves to `test_shipped_rules.py`.
"""

from dataclasses import dataclass

import pytest

from tests.model.explorer import Explorer, Scenario
from tests.model.invariants import Broken
from tests.model.rules import SHIPPED, Rules
from tests.model.variants import ReleasesByWindow
from tests.model.world import Faults

MAX_STATES = 40_000
ONE_FENCES_LATE = (
    "the client asks",
    "owner 0 DIES",
    "owner 1 takes over",
    "owner 1 PAUSES; owner 0 takes over",
)


@dataclass(frozen=True)
class Gap:
    """`shown_with` are the rules that show it undisturbed by the other gaps; `mended_by` those without it."""

    what: str
    scenario: Scenario
    broken: str
    mended_by: Rules
    shown_with: Rules = SHIPPED


_FENCING = Scenario(Faults(crash=1, pause=1), begins=ONE_FENCES_LATE)
_BY_WINDOW = Rules(screen=ReleasesByWindow)
_ACCEPTING = Rules(screen=ReleasesByWindow, accepts_before_it_ends=True)

GAPS = {
    "pieces": Gap(
        "how plain text is cut into deltas depends on batches (DESIGN 6.3), so of two owners in one epoch the second "
        "is not contiguous any more and the stream stands still until the terminal",
        Scenario(Faults(), handed_over=True),
        "the stream goes on",
        _ACCEPTING,
    ),
    "rejected": Gap(
        "an owner that reads a request and its cancel in one batch rejects what its successor accepts",
        Scenario(Faults(pause=1, cancel=1)),
        "a rejected response never becomes public",
        Rules(accepts_before_it_ends=True),
    ),
    "orphaned": Gap(
        "an owner that reads a request and its end in one batch never looks whether the other accepted it: no terminal",
        Scenario(Faults(), handed_over=True),
        "every response ends",
        _ACCEPTING,
        shown_with=_BY_WINDOW,
    ),
    "outranked": Gap(
        "a superseded owner that fences late takes a higher epoch than the rightful one, whose events, terminal and "
        "deadline included, nobody hears any more",
        _FENCING,
        "every response ends",
        Rules(screen=ReleasesByWindow, epochs_of_the_group=True),
        shown_with=_BY_WINDOW,
    ),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.xfail(strict=True, raises=Broken, reason=gap.what))
        for name, gap in GAPS.items()
    ],
)
def test_the_shipped_rules_leave_no_gap(name: str) -> None:
    gap = GAPS[name]
    result = Explorer(gap.scenario, gap.shown_with).exhaust(MAX_STATES)
    print(result)
    if result.broken is not None:
        assert result.broken.startswith(gap.broken), f"another gap than {gap.what}: {result}"
        raise Broken(str(result))


@pytest.mark.parametrize("name", GAPS)
def test_the_proposed_rule_mends_it(name: str) -> None:
    result = Explorer(GAPS[name].scenario, GAPS[name].mended_by).exhaust(MAX_STATES)
    assert result.broken is None, str(result)
