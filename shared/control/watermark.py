"""How far a partition is done, when its records are handled side by side. Pure."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Watermark:
    """The offsets of one partition that are being handled, from `position` on; offsets may have holes."""

    position: int
    committed: int = -1
    _open: dict[int, None] = field(default_factory=dict)
    _newest: int = -1

    def take(self, offset: int) -> None:
        """`offset` is being handled. Offsets must grow: a partition that was rewound gets a new watermark."""
        if offset <= self._newest:
            raise ValueError(f"offset {offset} comes after {self._newest}")
        self._open[offset] = None
        self._newest = offset

    def done(self, offset: int) -> None:
        """`offset` needs no second handling."""
        del self._open[offset]
        self.position = next(iter(self._open), self._newest + 1)

    def rewinds(self, offset: int) -> bool:
        """Whether `offset` shows that the partition was taken away and given back at an earlier position."""
        return offset <= self._newest
