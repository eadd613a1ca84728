"""Windows of one response that wait to be resolved: in order, each once its backends have answered. No I/O."""

import asyncio
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from services.moderation.judging import Heard
from services.moderation.windows import Finding, Window

_NOTHING_HEARD = Heard()


@dataclass(slots=True)
class Step:
    """A window with what patterns found in it, and, at a checkpoint of a policy with backends, what those will say."""

    window: Window
    matched: Sequence[Finding]
    hearing: "asyncio.Task[Heard] | None" = None
    since_s: float = field(default_factory=time.perf_counter)

    @property
    def ready(self) -> bool:
        """Everybody has answered."""
        return self.hearing is None or self.hearing.done()

    @property
    def heard(self) -> Heard:
        """What the backends said. Raises what went wrong in hearing them."""
        return _NOTHING_HEARD if self.hearing is None else self.hearing.result()

    @property
    def findings(self) -> Sequence[Finding]:
        """Of patterns and backends."""
        heard = self.heard.findings
        return [*self.matched, *heard] if heard else self.matched

    def give_up(self) -> None:
        """Nobody needs the answer any more."""
        if self.hearing is not None:
            self.hearing.cancel()

    @property
    def waited_ms(self) -> float:
        """How long the window has waited for its judgement."""
        return round((time.perf_counter() - self.since_s) * 1000, 3)


class Line:
    """The steps in order."""

    def __init__(self) -> None:
        self._steps: deque[Step] = deque()

    def __bool__(self) -> bool:
        return bool(self._steps)

    def add(self, step: Step) -> None:
        self._steps.append(step)

    def take_ready(self) -> Iterator[Step]:
        """The steps that can be resolved now, up to the first about which somebody is asked still. One at which a
        backend is missing stays, and so does what follows."""
        while self._steps and self._steps[0].ready and self._steps[0].heard.missing is None:
            yield self._steps.popleft()

    @property
    def stopped_by(self) -> Step | None:
        """The step that cannot be resolved: a backend has no answer without which nothing passes."""
        head = self._steps[0] if self._steps else None
        return head if head is not None and head.ready and head.heard.missing is not None else None

    def stop_here(self) -> None:
        """Nothing behind the first step will be resolved."""
        while len(self._steps) > 1:
            self._steps.pop().give_up()

    def clear(self) -> None:
        """Nobody needs the answers any more."""
        for step in self._steps:
            step.give_up()
        self._steps.clear()
