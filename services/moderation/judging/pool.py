"""The judges of all policies in use. Policies that say the same of a backend share it."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable

from services.moderation.backends.port import Backend
from services.moderation.classifiers import PatternClassifier
from services.moderation.judging.batcher import Batcher
from services.moderation.judging.judge import Judge, Seat
from services.moderation.policy import BackendSpec, Policy

Build = Callable[[str, BackendSpec], Backend]
_Key = tuple[str, str]
"""A backend's name, and all that the policy says of it."""

_REMEMBERED_JUDGES = 256
"""A policy has one for each tenant with rules of its own and each kind of request: few, but a file may name many."""


class JudgePool:
    """Makes judges, and keeps the backends that they ask. `build` makes a backend of a name and what the policy says
    of it; it may raise SettingsError, as may the backend's start."""

    def __init__(self, build: Build) -> None:
        self._build = build
        self._batchers: dict[_Key, Batcher] = {}
        self._judges: OrderedDict[int, Judge] = OrderedDict()

    async def prepare(self, policy: Policy) -> None:
        """Load the backends of a policy before it is used. Raises SettingsError; then nothing of it is kept."""
        known = set(self._batchers)
        try:
            await asyncio.gather(*(batcher.start() for batcher in self._batchers_of(policy)))
        except BaseException:
            await self._stop(set(self._batchers) - known)
            raise

    def judge(self, policy: Policy) -> Judge:
        """The policy's judge. A backend that is not loaded yet loads while its first questions wait."""
        judge = self._judges.get(id(policy))
        if judge is None:
            seats = [
                Seat(batcher, spec.on_failure == "closed")
                for batcher, spec in zip(self._batchers_of(policy), policy.backends.values(), strict=True)
            ]
            # The judge holds its policy, whose id so stays its own.
            judge = self._judges[id(policy)] = Judge(policy, PatternClassifier(policy), seats)
        self._judges.move_to_end(id(policy))
        if len(self._judges) > _REMEMBERED_JUDGES:
            self._judges.popitem(last=False)
        return judge

    async def close(self) -> None:
        """Stop every backend."""
        await self._stop(list(self._batchers))

    def _batchers_of(self, policy: Policy) -> list[Batcher]:
        return [self._batcher(name, spec) for name, spec in policy.backends.items()]

    def _batcher(self, name: str, spec: BackendSpec) -> Batcher:
        key = name, spec.model_dump_json()
        if key not in self._batchers:
            self._batchers[key] = Batcher(self._build(name, spec), spec.timeout_s)
        return self._batchers[key]

    async def _stop(self, keys: Iterable[_Key]) -> None:
        await asyncio.gather(*(self._batchers.pop(key).stop() for key in list(keys)))
