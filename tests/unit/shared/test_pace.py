"""How fast an answer comes."""

import pytest

from shared.telemetry.pace import Pace


def paced(*batches: tuple[int, float]) -> Pace:
    pace = Pace()
    for amount, at_s in batches:
        pace.came(amount, at_s)
    return pace


@pytest.mark.parametrize("batches", [[], [(400, 5.0)], [(0, 1.0), (7, 2.0), (0, 3.0)]])
def test_what_came_at_once_has_no_pace(batches: list[tuple[int, float]]) -> None:
    assert paced(*batches).seconds_per(400) is None


def test_the_time_is_shared_by_what_came_behind_the_first_batch() -> None:
    assert paced((1, 10.0), (1, 10.5), (1, 11.0)).seconds_per(3) == pytest.approx(0.5)
    assert paced((300, 10.0), (100, 11.0)).seconds_per(400) == pytest.approx(0.01)


def test_other_units_count_by_their_share() -> None:
    """A hundred characters in two seconds, at four characters a token."""
    assert paced((300, 10.0), (100, 12.0)).seconds_per(100) == pytest.approx(2.0 / 25)


def test_an_answer_without_tokens_has_no_pace() -> None:
    assert paced((1, 10.0), (1, 11.0)).seconds_per(0) is None
