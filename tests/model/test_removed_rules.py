"""No rule of DESIGN 5 and 6 is there for nothing: without it the explorer finds what goes wrong, and tells how."""

from dataclasses import replace

import pytest

from tests.model.explorer import FENCES_LATE, Explorer, Scenario
from tests.model.rules import Rules
from tests.model.variants import (
    AcceptedCountsAgain,
    AClaimCountsAgain,
    AnyAttemptWins,
    AnyDelta,
    AnyEpoch,
    AnyPosition,
    AnyTerminalCounts,
    BuffersOverGaps,
    JoinsReleases,
    LastClaimWins,
    LastDecisionWins,
    StartsElsewhere,
    TokensOfAnyClaim,
    Unprimed,
    WindowsByArrival,
    reads_up_to_its_job,
)
from tests.model.world import Faults

MAX_STATES = 60_000
ATTEMPTS, SPLICE, ENDS = "each fault costs at most one attempt", "no splice", "every response ends"
TOLD = "what a client reads is the terminal's text"

UPGRADED = Scenario(Faults(pause=1), upgraded=True)

REMOVED: dict[str, tuple[Rules, Faults | Scenario, str]] = {
    "5.1 tokens of any other claim are ignored": (Rules(journal_fold=TokensOfAnyClaim), Faults(pause=1), ATTEMPTS),
    "5.1 the first claim owns": (Rules(journal_fold=LastClaimWins), Faults(duplicate=1), ATTEMPTS),
    "5.1 the highest attempt owns": (Rules(journal_fold=AnyAttemptWins), Faults(duplicate=1), ATTEMPTS),
    "5.1 a claim id counts once": (Rules(journal_fold=AClaimCountsAgain), Faults(pause=1, duplicate=1), ATTEMPTS),
    "5.2 a claim that starts elsewhere is void": (Rules(journal_fold=StartsElsewhere), Faults(loss=1), SPLICE),
    "5.2 a takeover reads up to its own claim": (Rules(said_before=reads_up_to_its_job), Faults(pause=1), ATTEMPTS),
    "5.2 both": (
        Rules(journal_fold=StartsElsewhere, said_before=reads_up_to_its_job),
        Faults(pause=1),
        SPLICE,
    ),
    "5.2 the decoder is primed at the seam": (Rules(generation=Unprimed), Faults(crash=1), SPLICE),
    "5.3 a void claim gets a successor": (Rules(replaces_void_claims=False), Faults(loss=1), ENDS),
    "5.4 readers drop by position": (Rules(journal_fold=AnyPosition), Faults(duplicate=1), SPLICE),
    "5.4 gaps are never buffered over": (Rules(journal_fold=BuffersOverGaps), Faults(loss=1), SPLICE),
    "5.4 a lost append of the owner is healed": (Rules(heals=False), Faults(loss=1), ENDS),
    "5.6 the first decision wins": (Rules(journal_fold=LastDecisionWins), Faults(cancel=1), "the first decision wins"),
    "6.1 lower epochs are ignored": (Rules(event_fold=AnyEpoch), UPGRADED, TOLD),
    "6.1 an owner marks its epoch": (Rules(marks_its_epoch=False), UPGRADED, TOLD),
    "6.1 an owner reads up to its mark": (Rules(reads_up_to_its_mark=False), UPGRADED, TOLD),
    "6.1 an epoch is the group's": (
        Rules(epochs_of_the_group=False),
        replace(FENCES_LATE, upgraded=True),
        TOLD,
    ),
    "6.1 what was asked is accepted, then ended": (
        Rules(accepts_before_it_ends=False),
        Faults(pause=1, cancel=1),
        "a rejected response never becomes public",
    ),
    "6.1 what no backend can judge is turned away by the journal": (
        Rules(turns_away_by_journal=False),
        Scenario(Faults(deaf=1, loss=1), judges_late=True),
        "a rejected response never becomes public",
    ),
    "6.2 only the contiguous continuation": (Rules(event_fold=AnyDelta), Faults(duplicate=1), "no unscreened token"),
    "6.2 one acceptance counts": (Rules(event_fold=AcceptedCountsAgain), Faults(duplicate=1), "at most one acceptance"),
    "6.2 one terminal counts": (Rules(event_fold=AnyTerminalCounts), Faults(duplicate=1), "at most one terminal"),
    "6.3 windows lie at fixed places": (Rules(screen=WindowsByArrival), Faults(), "no unscreened token"),
    "6.3 each window's release is a piece": (
        Rules(screen=JoinsReleases),
        Scenario(Faults(), handed_over=True),
        "the stream goes on",
    ),
}


@pytest.mark.parametrize("removed", REMOVED)
def test_without_the_rule_the_explorer_finds_what_goes_wrong(removed: str) -> None:
    rules, where, expected = REMOVED[removed]
    violates = expected == "no unscreened token"
    scenario = where if isinstance(where, Scenario) else Scenario(where, violates)
    result = Explorer(scenario, rules).exhaust(MAX_STATES)
    print(f"without {removed!r}: {result}")  # the trace: pytest -rP
    assert result.broken is not None, f"nothing goes wrong without {removed!r}: {result}"
    assert result.broken.startswith(expected), str(result)
    assert result.trace[0].strip().startswith("1. ")
