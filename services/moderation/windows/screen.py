"""Screening of a text that is still being written: which part of it may be public, and when.

Sans-I/O. Raw text goes in, windows come out; their findings go in, releases come out. Where the windows lie,
and so every mask, cut and letter that is released, is a function of the raw text and the policy alone, never of how
the text arrived or how many windows were classified at once (DESIGN 6.3): two owners decide alike. The windows that
one piece of text completes release together, so whoever feeds the pieces of the journal publishes the same deltas.

With S = stride, L = lookback, H = hold_back, C = checkpoint:

* Windows end at S, 2S, 3S, … as the text passes them, and once more, finally, at the end of the text. Each sees
  the L code points before its end.
* A finding that could change with more text (`open`) is not judged yet, but nothing from its start on is
  released. It is judged when it closes, at the latest by the last window that sees its start: the hold is bounded.
* After the window that ends at e, text up to e - H is public, less what is held. Without patterns longer than H,
  no letter of a match is public before the match is judged: up to the window that sees a match end, e - H lies at
  or before its start, and as L >= H + S the next window still sees it whole. Longer ones lose only their tail.
* Patterns judge every window; backends, which are slow, only checkpoints: windows that are the first to reach a
  multiple of C, the final one, and, as whoever asks the backends sees to, those in which a pattern cuts. What is public
  after the window that ends at e was judged by a checkpoint that ends behind e - C, so with H >= C by one that saw at
  least H - C of what follows it. What a backend finds at a checkpoint's edge is held until the next checkpoint.
* Every stretch of text between two checkpoints is told of once it is judged, and earlier if some of it is released
  before (where H < C, which only policies without backends may have).
* A cut ends the text where the earliest match begins (or, if that is public already, where the public text
  ends). A mask replaces its match as one piece, which is never published in part.
"""

from collections import deque
from collections.abc import Iterable, Sequence

import msgspec

from services.moderation.policy import Policy
from services.moderation.windows.masks import MaskList
from services.moderation.windows.values import (
    DecidedAction,
    Decision,
    Finding,
    Outcome,
    Release,
    Stretch,
    StretchAction,
    Window,
)

_STRENGTH: tuple[StretchAction, ...] = ("pass", "flag", "mask", "cut")


class ScreenError(RuntimeError):
    """The caller broke the order of the protocol: a programming error, never the text's fault."""


class TextScreen:
    """Screens one response's output: `feed` text, classify the windows, `resolve` them in order.

    `resume_at`: a position up to which releases were published before (by an owner that is gone). Feed the text
    from its beginning all the same; what lies below the position is judged again, but not returned. It is judged alike
    if all backends answer, and alike; if they do not, what was published stands, and a mask around the position covers
    the rest of what it is for.
    """

    def __init__(self, policy: Policy, resume_at: int = 0) -> None:
        self._policy = policy
        self._stride = policy.streaming.stride
        self._lookback = policy.streaming.lookback
        self._hold_back = policy.streaming.hold_back
        self._checkpoint = policy.streaming.checkpoint
        self._resume_at = resume_at
        # The raw text from position `_base` on: no more of it than can still be looked at or released.
        self._tail = ""
        self._base = 0
        self._finished = False
        self._handed_out = 0
        # Behind which window each piece ends that completed any.
        self._pieces: deque[int] = deque()
        self._resolved = 0
        self._released = 0
        self._released_by = 0
        self._emitted = 0
        self._masks = MaskList(self._lookback)
        self._clear_from = 0
        self._recent: list[Decision] = []
        # Where an open finding of a backend begins, until the next checkpoint judges it.
        self._held_from: int | None = None
        # How much is told of as judged, and the strongest thing that was done since.
        self._told = 0
        self._done_since: StretchAction = "pass"
        self._done = False

    @property
    def done(self) -> bool:
        """Nothing more will come: the text was cut, or its final window is resolved."""
        return self._done

    @property
    def finished(self) -> bool:
        """The final piece was fed."""
        return self._finished

    @property
    def position(self) -> int:
        """Where the public text ends, in the raw text."""
        return self._emitted

    @property
    def fed(self) -> int:
        """How much raw text there is so far."""
        return self._base + len(self._tail)

    def feed(self, text: str, *, final: bool = False) -> list[Window]:
        """Take the next piece of raw text (any length, "" too); `final` says that it was the last.

        Returns the windows that it completed, in order, to be classified and handed to `resolve`; several calls
        may run ahead of it. After a cut, text is ignored. Raises ScreenError after the final piece.
        """
        if self._finished:
            raise ScreenError("text was fed after the final piece")
        if self._done:
            return []
        self._finished = final
        self._tail += text
        complete = self.fed // self._stride
        windows = [self._window(index, (index + 1) * self._stride) for index in range(self._handed_out, complete)]
        if final:
            windows.append(self._window(complete, self.fed, final=True))
        self._handed_out += len(windows)
        if windows:
            self._pieces.append(self._handed_out)
        return windows

    def _window(self, index: int, end: int, *, final: bool = False) -> Window:
        start, checkpoint = max(0, end - self._lookback), final or self._is_checkpoint(end)
        return Window(index, start, end, final, self._tail, self._base, checkpoint=checkpoint)

    def _is_checkpoint(self, end: int) -> bool:
        return end // self._checkpoint > (end - self._stride) // self._checkpoint

    def resolve(self, windows: Sequence[Window], findings: Iterable[Sequence[Finding]]) -> Outcome:
        """Judge the next windows, of any number, by their findings (one sequence each, in any order).

        Returns what may be published now, once the last window of a piece is resolved, so that releases do not depend
        on how many windows are resolved at once: a reader that heard one owner can go on with the next. Raises
        ScreenError if the windows are not the next ones.
        """
        releases: list[Release] = []
        decisions: list[Decision] = []
        stretches: list[Stretch] = []
        for window, found in zip(windows, findings, strict=True):
            if self._done:
                break
            if window.index != self._resolved or window.index >= self._handed_out:
                raise ScreenError(f"window {window.index} was resolved, but {self._resolved} is next")
            if any(not window.start <= finding.start < finding.end <= window.end for finding in found):
                raise ScreenError(f"a finding lies outside its window [{window.start}, {window.end}): {found}")
            self._resolved += 1
            before = len(decisions)
            self._step(window, found, decisions)
            self._tell(window, decisions[before:], stretches)
            if self._done or self._resolved == self._pieces[0]:
                self._pieces.popleft()
                self._emit(releases)
        self._forget()
        return Outcome(self._unpublished(releases), decisions, stretches)

    def _step(self, window: Window, found: Sequence[Finding], decisions: list[Decision]) -> None:
        """Judge one window and move the end of the public text."""
        limit = window.end if window.final else window.end - self._hold_back
        cut: Finding | None = None
        if window.checkpoint:
            self._held_from = None
        if found:
            cut, held_from = self._judge(window, found, decisions)
            limit = min(cut.start, held_from) if cut else min(limit, held_from)
        if self._held_from is not None:
            limit = min(limit, self._held_from)
        limit = self._masks.start_of_piece_at(limit)
        if limit > self._released:
            self._released, self._released_by = limit, window.index
        if cut:
            self._masks.drop_from(self._released)
            decisions.append(_decision("cut", cut, window.index, cut_at=self._released))
        self._done = window.final or cut is not None

    def _tell(self, window: Window, decided: Sequence[Decision], stretches: list[Stretch]) -> None:
        for decision in decided:
            self._done_since = max(self._done_since, decision.action, key=_STRENGTH.index)
        if window.checkpoint or self._released > self._told:
            stretches.append(Stretch(window.index, self._told, window.end, self._done_since))
            self._told, self._done_since = window.end, "pass"

    def _judge(self, window: Window, found: Sequence[Finding], decisions: list[Decision]) -> tuple[Finding | None, int]:
        """Mask and flag what is certain. Returns the earliest cut, if any, and where text that is still open begins."""
        held_from = window.end
        for finding in sorted(found, key=self._severity):
            action = self._policy.output_action(finding.category, finding.score)
            if action == "off":
                continue
            if self._is_open(finding, window):
                if action != "flag":
                    held_from = min(held_from, finding.start)
                    self._hold(finding)
            elif action == "cut":
                return finding, held_from
            else:
                self._mark(finding, window.index, decisions, mask=action == "mask")
        return None, held_from

    def _hold(self, finding: Finding) -> None:
        """A pattern's finding is judged again by the next window, a backend's by the next checkpoint."""
        if finding.backend is not None:
            self._held_from = finding.start if self._held_from is None else min(self._held_from, finding.start)

    def _severity(self, finding: Finding) -> tuple[int, bool, int, int]:
        """Order of judgement: by place; at one place cuts first, then as the policy ranks, then the longest."""
        category = self._policy.categories.get(finding.category)
        rank = 0 if category is None else category.rank
        return finding.start, self._policy.output_action(finding.category, finding.score) != "cut", rank, -finding.end

    def _is_open(self, finding: Finding, window: Window) -> bool:
        next_judged_after = self._stride if finding.backend is None else self._checkpoint + self._stride
        next_window_start = window.end + next_judged_after - self._lookback
        return finding.open and not window.final and finding.start >= next_window_start

    def _mark(self, finding: Finding, window: int, decisions: list[Decision], *, mask: bool) -> None:
        """Flag or mask a finding; windows overlap, so the same one comes up again and is reported once."""
        reachable = mask and finding.end > self._released
        if reachable:
            text = self._policy.categories[finding.category].mask
            self._masks.add(max(finding.start, self._released), finding.end, text)
        if not any(_is_same(finding, earlier) for earlier in self._recent):
            # What is public already cannot be masked any more: that is then a flag, and said so.
            decision = _decision("mask" if reachable else "flag", finding, window)
            self._recent.append(decision)
            decisions.append(decision)

    def _emit(self, releases: list[Release]) -> None:
        """Turn the raw text that became public since the last time into pieces, masks in place."""
        for mask in self._masks.take_until(self._released):
            self._emit_plain(mask.start, releases)
            self._clear_from = mask.end
            masked = Release(mask.start, mask.end, mask.text, self._released_by, True, self._clear_from)
            self._append(masked, releases)
        self._emit_plain(self._released, releases)

    def _emit_plain(self, end: int, releases: list[Release]) -> None:
        start = self._emitted
        if start < end:
            text = self._tail[start - self._base : end - self._base]
            self._append(Release(start, end, text, self._released_by, clear_from=self._clear_from), releases)

    def _append(self, release: Release, releases: list[Release]) -> None:
        releases.append(release)
        self._emitted = release.end

    def _forget(self) -> None:
        """Drop the text and the decisions that no later window can see; one code point stays, as context for \\b."""
        # The final window may end anywhere behind the last one, so it may begin up to a stride earlier than others.
        earliest_end = self._resolved * self._stride
        keep_from = min(self._emitted, max(0, earliest_end - self._lookback - 1))
        if keep_from > self._base:
            self._tail = self._tail[keep_from - self._base :]
            self._base = keep_from
            self._recent = [decision for decision in self._recent if decision.end > keep_from]

    def _unpublished(self, releases: list[Release]) -> list[Release]:
        """The releases beyond `resume_at`."""
        beginning = self._resume_at
        if releases and releases[0].start < beginning:
            releases = [_from_position(release, beginning) for release in releases if release.end > beginning]
        return releases


def _decision(action: DecidedAction, finding: Finding, window: int, cut_at: int | None = None) -> Decision:
    return Decision(
        action, finding.category, finding.start, finding.end, finding.score, window, cut_at, finding.backend
    )


def _is_same(finding: Finding, earlier: Decision) -> bool:
    return finding.category == earlier.category and finding.start < earlier.end and earlier.start < finding.end


def _from_position(release: Release, position: int) -> Release:
    """What is left of the release behind what is public. Of a mask, which whoever published that did not decide, that
    is the whole of it in place of less."""
    if release.start >= position:
        return release
    text = release.text if release.masked else release.text[position - release.start :]
    return msgspec.structs.replace(release, start=position, text=text)
