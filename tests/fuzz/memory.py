"""Whether a process keeps what it should forget: its resident memory after each of several rounds of inputs."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

_MIB = 1024 * 1024
LEAK_BYTES = 1024
"""What one input may not leave behind; half of it is found already."""


@dataclass(frozen=True)
class Level:
    """Resident bytes after `inputs` inputs in all."""

    resident: int
    inputs: int


@dataclass(frozen=True)
class Growth:
    """The levels before the first round and after each. Rounds are of about one size.

    A leak shows in every round. What shows in few of them is a peak whose memory the allocator did not give back: an
    arena of one more thread, a buffer that was never so large. So the median round judges, and three rounds of five
    may not grow.
    """

    levels: Sequence[Level]

    @property
    def per_input(self) -> float:
        """Bytes that an input left behind in the median round; negative where memory was given back."""
        pairs = zip(self.levels, self.levels[1:], strict=False)
        return statistics.median((b.resident - a.resident) / (b.inputs - a.inputs) for a, b in pairs)

    @property
    def leaks(self) -> bool:
        """Whether an input leaves behind half of LEAK_BYTES, or more."""
        return self.per_input >= LEAK_BYTES / 2

    def __str__(self) -> str:
        steps = " → ".join(f"{level.resident / _MIB:.1f}" for level in self.levels)
        return (
            f"{steps} MiB over {self.levels[-1].inputs:,} inputs, {self.per_input:+,.0f} bytes each in the median round"
        )


def resident_bytes(pid: int) -> int:
    """Of the process itself, without its children."""
    return int(psutil.Process(pid).memory_info().rss)
