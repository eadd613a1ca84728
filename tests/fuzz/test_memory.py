"""The judge of memory: a small leak is one, a single peak is none."""

import random

from tests.fuzz.memory import LEAK_BYTES, Growth, Level

ROUND = 2000
MIB = 1024 * 1024


def grown(*steps: float) -> Growth:
    """Rounds that add so many bytes each, from 100 MiB on."""
    levels = [Level(100 * MIB, 0)]
    for number, step in enumerate(steps, 1):
        levels.append(Level(levels[-1].resident + int(step), number * ROUND))
    return Growth(levels)


def test_a_kibibyte_per_input_is_a_leak_however_noisy() -> None:
    noise = random.Random(1)
    assert grown(*(ROUND * LEAK_BYTES + noise.uniform(-MIB / 2, MIB / 2) for _ in range(5))).leaks


def test_a_peak_or_two_are_none() -> None:
    assert not grown(0, 40 * MIB, 1000, 0, 0).leaks
    assert not grown(30 * MIB, 0, 10 * MIB, 0, 200_000).leaks


def test_a_third_one_is() -> None:
    assert grown(2 * MIB, 2 * MIB, 0, 2 * MIB, 0).leaks


def test_it_says_what_it_saw() -> None:
    assert (
        str(grown(0, MIB, 0))
        == "100.0 → 100.0 → 101.0 → 101.0 MiB over 6,000 inputs, +0 bytes each in the median round"
    )
