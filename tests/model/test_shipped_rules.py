"""The shipped rules over every order of things within small bounds, and over random ones with every fault at once.

`python -m tests.model` does the same with larger bounds.
"""

from dataclasses import replace

import pytest

from tests.model.explorer import FENCES_LATE, Explorer, Scenario
from tests.model.world import Faults

SMALL = [
    Faults(),
    Faults(cancel=1),
    Faults(crash=1),
    Faults(duplicate=1),
    Faults(loss=1),
]


def _id(faults: Faults) -> str:
    return "+".join(name for name, count in faults._asdict().items() if count) or "none"


@pytest.mark.parametrize("violates", [False, True], ids=["finishes", "violates"])
@pytest.mark.parametrize("faults", SMALL, ids=_id)
def test_no_splice_no_stall_one_end_always_an_end_in_every_order(faults: Faults, violates: bool) -> None:
    result = Explorer(Scenario(faults, violates)).exhaust(max_states=200_000)
    assert result.complete, str(result)


PAUSED = {
    "beside its successor": Scenario(Faults(pause=1)),
    "and the text violates": Scenario(Faults(pause=1), violates=True),
    "and the client cancels": Scenario(Faults(pause=1, cancel=1)),
    "before the client asked": Scenario(Faults(), handed_over=True),
    "before the client asked, and an append is lost": Scenario(Faults(loss=1), handed_over=True),
    "under an older policy": Scenario(Faults(pause=1), upgraded=True),
    "while it takes over": FENCES_LATE,
    "while it takes over, under an older policy": replace(FENCES_LATE, upgraded=True),
}


@pytest.mark.parametrize("paused", PAUSED)
def test_an_owner_that_paused_and_goes_on_harms_nothing(paused: str) -> None:
    result = Explorer(PAUSED[paused]).exhaust(max_states=20_000)
    assert result.broken is None, str(result)


@pytest.mark.parametrize("violates", [False, True], ids=["finishes", "violates"])
@pytest.mark.parametrize(
    "faults",
    [Faults(crash=1, duplicate=1, loss=1, cancel=1), Faults(1, 1, 1, 1, 1)],
    ids=_id,
)
def test_random_orders_of_all_faults_at_once(faults: Faults, violates: bool) -> None:
    result = Explorer(Scenario(faults, violates)).wander(seed=20_261_121, walks=300)
    assert result.broken is None, str(result)
    assert result.quiet == 300


# -- backends that take their time ---------------------------------------------------------------------------------

LATE = [Faults(), Faults(cancel=1), Faults(deaf=1), Faults(deaf=1, cancel=1)]


@pytest.mark.parametrize("violates", [False, True], ids=["finishes", "violates"])
@pytest.mark.parametrize("faults", LATE, ids=_id)
def test_an_answer_may_come_whenever_it_likes_or_never(faults: Faults, violates: bool) -> None:
    result = Explorer(Scenario(faults, violates, judges_late=True)).exhaust(max_states=20_000)
    assert result.complete, str(result)


@pytest.mark.parametrize(
    "faults",
    [Faults(crash=1), Faults(loss=1), Faults(pause=1), Faults(crash=1, deaf=1), Faults(loss=1, deaf=1)],
    ids=_id,
)
def test_whoever_dies_pauses_or_loses_while_something_is_judged(faults: Faults) -> None:
    result = Explorer(Scenario(faults, judges_late=True)).exhaust(max_states=8_000)
    assert result.broken is None, str(result)


@pytest.mark.parametrize("violates", [False, True], ids=["finishes", "violates"])
def test_random_orders_of_all_faults_at_once_while_something_is_judged(violates: bool) -> None:
    scenario = Scenario(Faults(crash=1, duplicate=1, loss=1, cancel=1, deaf=1), violates, judges_late=True)
    result = Explorer(scenario).wander(seed=20_261_121, walks=200)
    assert result.broken is None, str(result)
    assert result.quiet == 200
