"""The judges of all policies in use. Policies that say the same of a backend share it."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

from services.moderation.backends.port import Backend
from services.moderation.classifiers import PatternClassifier
from services.moderation.judging.batcher import Batcher
from services.moderation.judging.judge import Judge, Seat
from services.moderation.meter import ModerationMeter
from services.moderation.policy import BackendSpec, Policy

Build = Callable[[str, BackendSpec], Backend]
_Key = tuple[str, str]
"""A backend's name, and all that the policy says of it."""

_REMEMBERED_JUDGES = 256
"""A policy has one for each tenant with rules of its own and each kind of request: few, but a file may name many."""
RETIRED_AFTER_S = 60.0
"""Longer than anybody who was given a judge goes on asking without holding a response: clients' questions take 10 s."""


class JudgePool:
    """Makes judges, and keeps the backends that they ask. `build` makes a backend of a name and what the policy says
    of it; it may raise SettingsError, as may the backend's start."""

    def __init__(
        self, build: Build, *, clock: Callable[[], float] = time.monotonic, meter: ModerationMeter | None = None
    ) -> None:
        self._build = build
        self._meter = meter
        self._clock = clock
        self._batchers: dict[_Key, Batcher] = {}
        self._used_s: dict[_Key, float] = {}  # when a policy in use named it last
        self._preparing: list[Policy] = []
        self._judges: OrderedDict[int, Judge] = OrderedDict()

    async def prepare(self, policy: Policy) -> None:
        """Load the backends of a policy before it is used. Raises SettingsError; then nothing of it is kept, but what
        a judge asks: other owners may have it, and responses that were accepted under it come from them."""
        known = set(self._batchers)
        self._preparing.append(policy)
        try:
            await asyncio.gather(*(batcher.start() for batcher in self._batchers_of(policy)))
        except BaseException:
            new = {_key(name, spec) for name, spec in policy.backends.items()} - known
            await self._stop(key for key in new & self._batchers.keys() if not self._is_asked(self._batchers[key]))
            raise
        finally:
            self._preparing.remove(policy)

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

    async def retire(self, in_use: Iterable[Policy]) -> None:
        """Free the backends that no policy has named for RETIRED_AFTER_S that is in use or in preparation: what was
        rolled out before may be a model of gigabytes. Who comes back to such a policy has it loaded again."""
        now_s = self._clock()
        for policy in (*in_use, *self._preparing):
            self._used_s.update({_key(name, spec): now_s for name, spec in policy.backends.items()})
        since_s = {key: self._used_s.setdefault(key, now_s) for key in self._batchers}
        retired = {key for key, used_s in since_s.items() if now_s - used_s >= RETIRED_AFTER_S}
        if retired:
            await self._stop(retired)

    async def close(self) -> None:
        """Stop every backend."""
        await self._stop(list(self._batchers))

    def _batchers_of(self, policy: Policy) -> list[Batcher]:
        return [self._batcher(name, spec) for name, spec in policy.backends.items()]

    def _batcher(self, name: str, spec: BackendSpec) -> Batcher:
        key = _key(name, spec)
        if key not in self._batchers:
            self._batchers[key] = Batcher(self._build(name, spec), spec.timeout_s, meter=self._meter)
        return self._batchers[key]

    def _is_asked(self, batcher: Batcher) -> bool:
        return any(judge.asks([batcher]) for judge in self._judges.values())

    async def _stop(self, keys: Iterable[_Key]) -> None:
        stopped = [self._batchers.pop(key) for key in list(keys)]
        self._used_s = {key: used_s for key, used_s in self._used_s.items() if key in self._batchers}
        # Whoever asks for the judge of such a policy again is given one whose backends are not stopped.
        self._judges = OrderedDict((of, judge) for of, judge in self._judges.items() if not judge.asks(stopped))
        await asyncio.gather(*(batcher.stop() for batcher in stopped))


def _key(name: str, spec: BackendSpec) -> _Key:
    return name, spec.model_dump_json()
