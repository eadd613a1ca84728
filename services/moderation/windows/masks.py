"""The masks that are decided but not public yet."""

from typing import NamedTuple


class Mask(NamedTuple):
    """`text` stands for the raw `[start, end)`, as one piece."""

    start: int
    end: int
    text: str


class MaskList:
    """Disjoint masks in order. Overlapping ones become one piece, up to `max_width` code points: a run of matches
    without end must not hold the text back without end."""

    def __init__(self, max_width: int) -> None:
        self._max_width = max_width
        self._masks: list[Mask] = []

    def __bool__(self) -> bool:
        return bool(self._masks)

    def add(self, start: int, end: int, text: str) -> None:
        """Mask `[start, end)`, at most `max_width` wide. Where it joins another mask, the earlier one's text stays."""
        kept: list[Mask] = []
        for mask in self._masks:
            if mask.end <= start or end <= mask.start:
                kept.append(mask)
            elif max(end, mask.end) - min(start, mask.start) <= self._max_width:
                text = mask.text if mask.start <= start else text
                start, end = min(start, mask.start), max(end, mask.end)
            else:
                # Too wide for one piece. It cannot enclose the other one (their union would fit): keep the rest.
                kept.append(mask)
                start, end = (mask.end, end) if mask.start <= start else (start, mask.start)
        kept.append(Mask(start, end, text))
        self._masks = sorted(mask for mask in kept if mask.start < mask.end)

    def start_of_piece_at(self, position: int) -> int:
        """`position`, or the start of the mask that it would split."""
        return next((mask.start for mask in self._masks if mask.start < position < mask.end), position)

    def drop_from(self, position: int) -> None:
        """Forget the masks at or after `position`: that text will never be public."""
        self._masks = [mask for mask in self._masks if mask.start < position]

    def take_until(self, position: int) -> list[Mask]:
        """Remove and return the masks that end at or before `position`."""
        taken = [mask for mask in self._masks if mask.end <= position]
        self._masks = self._masks[len(taken) :]
        return taken
