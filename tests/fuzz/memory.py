"""Whether a process keeps what it should forget: its resident memory before and after so many inputs."""

from dataclasses import dataclass

import psutil

KIB = 1024
LEAK_BYTES = KIB
"""What one input may leave behind on average before it counts as a leak."""
_SLACK_BYTES = 2 * 1024 * KIB
"""What an allocator may take for itself in between."""


@dataclass(frozen=True)
class Growth:
    """A process's resident bytes at two moments, with `inputs` in between."""

    before: int
    after: int
    inputs: int

    @property
    def per_input(self) -> float:
        """Bytes that each input left behind on average; negative where memory was given back."""
        return (self.after - self.before) / max(1, self.inputs)

    @property
    def leaks(self) -> bool:
        """Whether it grew by more than the allocator's slack and more than half of LEAK_BYTES per input."""
        return self.after - self.before > max(_SLACK_BYTES, self.inputs * LEAK_BYTES / 2)

    def __str__(self) -> str:
        mib = 1024 * KIB
        return (
            f"{self.before / mib:.1f} → {self.after / mib:.1f} MiB over {self.inputs:,} inputs, "
            f"{self.per_input:+,.0f} bytes each"
        )


def resident_bytes(pid: int) -> int:
    """Of the process itself, without its children."""
    return int(psutil.Process(pid).memory_info().rss)
