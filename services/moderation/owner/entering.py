"""A request between its first look and its acceptance, while backends judge its input. No I/O."""

import asyncio
import time
from dataclasses import dataclass, field

from opentelemetry.trace import Span

from services.moderation.judging import InputVerdict


@dataclass(slots=True)
class Entering:
    """`matched`: what the patterns made of the input; `hearing`: what patterns and backends will have made of it."""

    span: Span
    matched: InputVerdict
    hearing: "asyncio.Task[InputVerdict] | None" = None
    since_s: float = field(default_factory=time.perf_counter)

    @property
    def ready(self) -> bool:
        """Everybody has answered."""
        return self.hearing is None or self.hearing.done()

    @property
    def result(self) -> InputVerdict:
        """What was made of the input. Raises what went wrong in judging it."""
        return self.matched if self.hearing is None else self.hearing.result()

    @property
    def waited_ms(self) -> float:
        return round((time.perf_counter() - self.since_s) * 1000, 3)

    def give_up(self) -> None:
        """Nobody needs the answer any more."""
        if self.hearing is not None:
            self.hearing.cancel()
        self.span.end()
