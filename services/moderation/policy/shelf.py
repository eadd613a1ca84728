"""Policies by name, for whoever takes over a response that was accepted under another one than its own.

They stand in `moderation.policies`: a name is written there, and acknowledged, before the first response is accepted
under it. So a name that comes from an `accepted` record and is not found there will never be.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Collection
from typing import Protocol

from services.moderation.policy.loading import parse_policy
from services.moderation.policy.model import Policy
from services.moderation.policy.source import PolicyError
from shared.log import Appended, Replay
from shared.records import PolicyKnown, Record
from shared.topics import POLICIES, Topic

log = logging.getLogger(__name__)

KEPT = 64
"""Policies in memory, the latest used; whoever runs a response holds its policy besides."""


class Reader(Protocol):
    """What the shelf needs of `shared.log.Replayer`."""

    async def read(self, topic: Topic, partition: int, keys: Collection[str], *, since_ms: int) -> Replay: ...


class Writer(Protocol):
    """What the shelf needs of `shared.log.LogWriter`."""

    async def append(self, topic: Topic, record: Record) -> Appended: ...


class PolicyShelf:
    """Finds policies by name, in memory or in the log. One look at a time: a takeover asks for the same name often."""

    def __init__(self, reader: Reader, writer: Writer, *, kept: int = KEPT) -> None:
        self._reader = reader
        self._writer = writer
        self._kept = kept
        self._found: OrderedDict[str, Policy | None] = OrderedDict()
        self._lock = asyncio.Lock()

    async def put(self, policy: Policy) -> None:
        """Make the policy known to every replica; from then on responses may be accepted under it. Raises LogError."""
        async with self._lock:
            if await self._source(policy.name) is None:
                await self._writer.append(POLICIES, PolicyKnown(name=policy.name, source=policy.source))
            self._keep(policy.name, policy)

    async def named(self, name: str) -> Policy | None:
        """The policy of this name, which an `accepted` record names; None if nobody can decide as it did, because it
        is not known or its rules are those of another release. Raises LogError."""
        async with self._lock:
            if name not in self._found:
                source = await self._source(name)
                self._keep(name, None if source is None else await asyncio.to_thread(_parsed, name, source))
            self._found.move_to_end(name)
            return self._found[name]

    async def _source(self, name: str) -> str | None:
        known = (await self._reader.read(POLICIES, 0, {name}, since_ms=0)).records
        return known[-1].record.source if known else None

    def _keep(self, name: str, policy: Policy | None) -> None:
        self._found[name] = policy
        self._found.move_to_end(name)
        if len(self._found) > self._kept:
            self._found.popitem(last=False)


def _parsed(name: str, source: str) -> Policy | None:
    try:
        policy = parse_policy(source, name)
    except PolicyError as error:
        log.warning("the policy %s is of another release and cannot be read by this one: %s", name, error)
        return None
    if policy.name != name:
        log.warning("the policy %s is of another release: by the rules of this one it would be %s", name, policy.name)
        return None
    return policy
