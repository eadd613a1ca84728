"""The policy that new responses are accepted under, and its replacement while the service runs."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from services.moderation.policy.loading import parse_policy, read_policy
from services.moderation.policy.model import Policy
from services.moderation.policy.shelf import PolicyShelf
from shared.errors import ChatmeshError, LogError

log = logging.getLogger(__name__)

Prepare = Callable[[Policy], Awaitable[None]]
"""Starts what the policy needs, its backends. Raises ChatmeshError where that cannot be."""


class Rollout:
    """Holds `current` and follows the file at `path`. A file that cannot be used leaves everything as it is.

    A response keeps the policy that it was accepted under: take `current` once, when it is accepted.
    """

    def __init__(self, first: Policy, path: Path, shelf: PolicyShelf, prepare: Prepare, *, every_s: float) -> None:
        """`first`: what the file said just now. `every_s`: how often to look at it; 0: only when asked."""
        self.current = first
        self._path = path
        self._shelf = shelf
        self._prepare = prepare
        self._every_s = every_s
        self._settled: str | None = first.source  # the content that needs no other look
        self._told = ""
        self._asked = asyncio.Event()

    async def named(self, name: str) -> Policy | None:
        """The policy that a response was accepted under; None if nobody can decide as it did. Raises LogError."""
        return self.current if name == self.current.name else await self._shelf.named(name)

    async def start(self) -> None:
        """Prepare the first policy and make it known. Raises ChatmeshError."""
        await self._roll_out(self.current)
        log.info("screens with policy %s", self.current.name)

    def ask(self) -> None:
        """Look at the file now, and say what is wrong with it even if that was said before."""
        self._settled, self._told = None, ""
        self._asked.set()

    async def watch(self) -> None:
        """Look at the file again and again, and at once on SIGHUP, until cancelled."""
        with _hangups(self.ask):
            while True:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._asked.wait(), self._every_s or None)
                self._asked.clear()
                await self.look()

    async def look(self) -> None:
        """Roll out what the file says now, if it says something new. What is wrong is logged, once."""
        text = None
        try:
            text = await asyncio.to_thread(read_policy, self._path)
            if text != self._settled:
                await self._replace(await asyncio.to_thread(parse_policy, text, str(self._path)))
        except LogError as error:
            self._complain(f"policy {self.current.name} stays until the broker takes its successor: {error}")
            return  # the next look tries again
        except ChatmeshError as error:
            self._complain(f"policy {self.current.name} stays: {error}")
        except Exception as error:  # noqa: BLE001 - whatever a library raises as it loads a model: ours work
            self._complain(f"policy {self.current.name} stays: {type(error).__name__}: {error}", trace=error)
        else:
            self._told = ""
        self._settled = text

    async def _replace(self, policy: Policy) -> None:
        replaced = self.current
        if policy.name == replaced.name:
            log.info("the policy file %s says what it said: %s stays", self._path, replaced.name)
            return
        await self._roll_out(policy)
        log.info("policy %s replaces %s (responses that run keep theirs)", policy.name, replaced.name)

    async def _roll_out(self, policy: Policy) -> None:
        await self._prepare(policy)
        await self._shelf.put(policy)
        self.current = policy
        for warning in policy.warnings:
            log.warning("%s", warning)

    def _complain(self, message: str, *, trace: Exception | None = None) -> None:
        """One log line per fault, however long it stays; behind the last of them where in the code it came up."""
        if message != self._told:
            *lines, last = message.splitlines()
            for line in lines:
                log.error("%s", line)
            log.error("%s", last, exc_info=trace)
        self._told = message


@contextlib.contextmanager
def _hangups(take: Callable[[], None]) -> Iterator[None]:
    """Call `take` on each SIGHUP for the length of the block, where there is such a signal."""
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGHUP, take)
    except (NotImplementedError, AttributeError):
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
