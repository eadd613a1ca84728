"""A service's life: its parts start in order and end in reverse, and their end has one deadline.

A service reads like this:

    async with Lifetime(stop, settings.shutdown_s) as life:
        await life.start("log writer", writer)
        life.spawn("mailbox", take_mail())
        await life.until_end()
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from shared.futures import error_of

log = logging.getLogger(__name__)

HURRY_S = 1.0
"""What is left of the deadline once a service is asked a second time to stop."""

Step = Callable[[], Awaitable[object]]

_LAST_WORDS_S = 0.05
"""For a step that was cancelled: it may close what it has open."""


class Stop(asyncio.Event):
    """The wish that a service end. `hurried` is set when it is asked again: what takes its time must not any more."""

    def __init__(self) -> None:
        super().__init__()
        self.hurried = asyncio.Event()

    def ask(self) -> None:
        """Set it, and from the second call on `hurried`."""
        (self.hurried if self.is_set() else self).set()


class Part(Protocol):
    """What can be started and stopped. `stop` must be harmless before `start` and after a `start` that failed."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _AtEnd:
    name: str
    step: Step
    share: float


class Lifetime:
    """Runs the body until `stop` is set or a watched task ends; then the registered steps, the latest first.

    All steps together have `shutdown_s` seconds. A step may take its share (half, unless it says otherwise) of what is
    left, so that one that hangs leaves time to those behind it; what is not done by then is cancelled and named in
    the log. A second request to stop leaves HURRY_S. A step that is late does not make the shutdown a failure. One
    that raises does, but the steps behind it still run: its error comes out of the block, unless the body raised one.

    If `stop` is set before the body reaches `until_end`, the body is cancelled: a start that takes long is given up.
    """

    def __init__(self, stop: Stop, shutdown_s: float) -> None:
        self._stop = stop
        self._shutdown_s = shutdown_s
        self._steps: list[_AtEnd] = []
        self._watched: set[asyncio.Task[Any]] = set()
        self._raised: asyncio.Task[Any] | None = None
        self._limit = asyncio.timeout(None)
        self._deadline = 0.0
        self._interrupter: asyncio.Task[None] | None = None
        self._interrupted = False

    # -- what the body says ----------------------------------------------------------------------------------

    def at_end(self, name: str, step: Step, *, share: float = 0.5) -> None:
        """Run `step` at the end, for at most `share` of the time that is left then."""
        self._steps.append(_AtEnd(name, step, share))

    def at_end_blocking(self, name: str, step: Callable[[], object]) -> None:
        """The same for a function that blocks: it runs in a thread, which is left behind when it is late."""
        self.at_end(name, lambda: asyncio.to_thread(step))

    async def start(self, name: str, part: Part) -> None:
        """Start the part, and stop it at the end. Raises what its `start` raises."""
        self.at_end(name, part.stop)
        await part.start()

    def spawn(self, name: str, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Run `work` beside the body, watch it, and cancel it at the end."""
        task = asyncio.create_task(work, name=name)
        self.watch(task)
        self.at_end(name, lambda: self._end_task(task))
        return task

    def watch(self, task: "asyncio.Task[Any]") -> None:
        """The end of this task, which somebody else cancels, ends the service."""
        self._watched.add(task)

    async def until_end(self) -> None:
        """Wait for `stop`, or for the first watched task to end: a service whose part died must not linger.

        Raises what that task raised.
        """
        await self._let_body_run()
        stopping = asyncio.create_task(self._stop.wait(), name="stop")
        try:
            done, _ = await asyncio.wait({stopping, *self._watched}, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                self._raised = task
                task.result()
        finally:
            await _cancel(stopping)

    # -- beginning and end -----------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        body = asyncio.current_task()
        assert body is not None
        self._interrupter = asyncio.create_task(self._interrupt(body), name="stop while starting")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        await self._let_body_run()
        given_up = self._interrupted and isinstance(error, asyncio.CancelledError)
        if given_up:
            log.info("asked to stop while it started")
            asyncio.current_task().uncancel()  # type: ignore[union-attr]
        failures = await self._end()
        if failures and (error is None or given_up):
            raise failures[0]
        return given_up

    async def _interrupt(self, body: "asyncio.Task[Any]") -> None:
        await self._stop.wait()
        self._interrupted = True
        body.cancel()

    async def _let_body_run(self) -> None:
        """From here on `stop` no longer cancels the body; raises CancelledError if it has just done so."""
        interrupter, self._interrupter = self._interrupter, None
        if interrupter is not None:
            await _cancel(interrupter)

    async def _end(self) -> list[Exception]:
        """Every step, the latest first; what they raised."""
        self._deadline = asyncio.get_running_loop().time() + self._shutdown_s
        hastening = asyncio.create_task(self._hasten(), name="hasten the end")
        failures: list[Exception] = []
        try:
            while self._steps:
                failures += await self._take(self._steps.pop())
        finally:
            await _cancel(hastening)
        return failures

    async def _take(self, at_end: _AtEnd) -> list[Exception]:
        """In a task of its own: a step that breaks off by a CancelledError of its own must not pass for ours."""
        begun = asyncio.get_running_loop().time()
        self._limit = asyncio.timeout(max(0.0, self._deadline - begun) * at_end.share)
        step = asyncio.create_task(_run(at_end.step), name=f"end of {at_end.name}")
        try:
            async with self._limit:
                await asyncio.wait({step})
        except TimeoutError:
            took_s = asyncio.get_running_loop().time() - begun
            log.warning("%s did not end within %.1f s: left as it is", at_end.name, took_s)
            step.cancel()
            await asyncio.wait({step}, timeout=_LAST_WORDS_S)
            return []
        except asyncio.CancelledError:
            step.cancel()
            raise
        return _failures(at_end.name, step)

    async def _end_task(self, task: "asyncio.Task[Any]") -> None:
        """Cancel what was spawned. What it raised is logged, unless it is what ended the service."""
        await _cancel(task)
        if task is not self._raised and (error := error_of(task)) is not None:
            log.error("%s failed", task.get_name(), exc_info=error)

    async def _hasten(self) -> None:
        await self._stop.hurried.wait()
        log.warning("asked again to stop: hurrying")
        self._deadline = min(self._deadline, asyncio.get_running_loop().time() + HURRY_S)
        limit_at = self._limit.when()
        if limit_at is not None and limit_at > self._deadline and not self._limit.expired():
            self._limit.reschedule(self._deadline)


def _failures(name: str, step: "asyncio.Task[None]") -> list[Exception]:
    if step.cancelled():
        log.warning("the end of %s broke off: something in it was cancelled", name)
        return []
    error = step.exception()
    if error is None:
        return []
    log.error("the end of %s failed", name, exc_info=error)
    if not isinstance(error, Exception):
        raise error
    return [error]


async def _run(step: Step) -> None:
    await step()


async def _cancel(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    await asyncio.wait({task})
