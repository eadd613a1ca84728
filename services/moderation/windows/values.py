"""What goes into and comes out of screening. All positions count code points of the raw text (DESIGN 6.2)."""

from typing import Literal

import msgspec

Stage = Literal["input", "output"]
DecidedAction = Literal["flag", "mask", "cut"]


class Window(msgspec.Struct, frozen=True, gc=False):
    """A stretch of text to classify: `[start, end)` of the whole text.

    `text` holds the whole text from position `base` on (it may reach beyond the window, which must not be looked
    at: the windows of one batch share it). `final`: nothing follows `end`, ever. `checkpoint`: the policy's backends
    judge it too, not only its patterns.
    """

    index: int
    start: int
    end: int
    final: bool
    text: str
    base: int = 0
    stage: Stage = "output"
    checkpoint: bool = False

    @property
    def excerpt(self) -> str:
        """The text of the window: what a model reads."""
        return self.text[self.start - self.base : self.end - self.base]


class Finding(msgspec.Struct, frozen=True, gc=False):
    """Something of `category` at `[start, end)`. `open`: it reaches the window's edge, and more text may still make
    it longer or make it vanish, so it only holds the text back until the next window. `backend`: who found it; None: a
    pattern."""

    category: str
    start: int
    end: int
    score: float = 1.0
    open: bool = False
    backend: str | None = None


class Release(msgspec.Struct, frozen=True, gc=False):
    """Text that may be published in place of the raw `[start, end)`. A masked one is atomic. `window` is the index
    of the window that released its end. The raw text is public as it is from `clear_from` on, where the last mask
    before this release ends; a masked one has nothing clear, and its `clear_from` is its end."""

    start: int
    end: int
    text: str
    window: int
    masked: bool = False
    clear_from: int = 0


class Decision(msgspec.Struct, frozen=True, gc=False):
    """What was done about the finding at `[start, end)`, for the verdict. `cut_at` (cuts only): where the public
    text ends for good. `backend`: who found it; None: a pattern."""

    action: DecidedAction
    category: str
    start: int
    end: int
    score: float
    window: int
    cut_at: int | None = None
    backend: str | None = None


StretchAction = Literal["pass", "flag", "mask", "cut"]


class Stretch(msgspec.Struct, frozen=True, gc=False):
    """The raw `[start, end)` is judged, by windows up to number `window`; stretches join without a gap. `action`: the
    strongest thing that was done since the stretch before."""

    window: int
    start: int
    end: int
    action: StretchAction


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What some windows came to: publish `releases`, then, if there is a `cut`, end the response. `decisions` has
    each flag, mask and cut once, the cut last. Whatever is released lies in one of the `stretches`, of this outcome or
    of an earlier one."""

    releases: list[Release] = []
    decisions: list[Decision] = []
    stretches: list[Stretch] = []

    @property
    def cut(self) -> Decision | None:
        """The decision that ends the response, if one does."""
        last = self.decisions[-1] if self.decisions else None
        return last if last is not None and last.action == "cut" else None
