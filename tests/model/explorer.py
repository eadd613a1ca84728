"""Searches the states of the modelled mesh for one that breaks an invariant, and tells how it came about."""

import random
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.model.folding import Folding
from tests.model.invariants import Broken, Invariants
from tests.model.mesh import Mesh, Step
from tests.model.rules import SHIPPED, Rules
from tests.model.text import policy
from tests.model.world import Faults, Owner, World


@dataclass(frozen=True)
class Scenario:
    """Where an exploration starts. `handed_over`: the owner paused before the client asked, so two believe that they
    own the partition and no response was there to be marked. `upgraded`: owner 1 has a newer policy. `judges_late`: the
    backends of owners answer some time after what they are asked about was read. `begins`: labels (their beginnings) of
    the first steps.
    """

    faults: Faults
    violates: bool = False
    handed_over: bool = False
    upgraded: bool = False
    judges_late: bool = False
    begins: tuple[str, ...] = ()

    def first(self, *, epochs_of_the_group: bool) -> World:
        """The first state: owner 0 is live; nothing was asked yet."""
        live, late = Owner(phase="live"), int(self.handed_over)
        epoch = 4 if epochs_of_the_group else 0
        owners = (live, Owner(phase="live", generation=1, epoch=epoch) if late else Owner())
        return World(owners=owners, assigned=late, generation=late, faults=self.faults, spent=late)


FENCES_LATE = Scenario(
    Faults(crash=1, pause=1),
    begins=("the client asks", "owner 0 DIES", "owner 1 takes over", "owner 1 PAUSES; owner 0 takes over"),
)
"""An owner pauses between its takeover and its marker; the next one has taken over by then."""


@dataclass
class Result:
    """What was seen. `complete`: no state within the bounds was left out. `trace` leads to the broken invariant."""

    states: int = 0
    quiet: int = 0
    complete: bool = False
    broken: str | None = None
    trace: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        seen = f"{self.states:,} states, {self.quiet:,} of them final{'' if self.complete else ', not exhausted'}"
        if self.broken is None:
            return f"{seen}: every invariant holds"
        return "\n".join([f"{seen}: BROKEN", *self.trace, f" => {self.broken}"])


class _Origin(NamedTuple):
    world: World
    label: str


class Explorer:
    """One scenario under one set of rules."""

    def __init__(self, scenario: Scenario, rules: Rules = SHIPPED) -> None:
        self._scenario = scenario
        self._rules = rules
        later = "model-2" if scenario.upgraded else "model"
        folding = Folding(
            rules, (policy(violates=scenario.violates), policy(violates=scenario.violates, version=later))
        )
        self._mesh = Mesh(folding, judges_late=scenario.judges_late)
        self._invariants = Invariants(folding)

    def exhaust(self, max_states: int) -> Result:
        """Breadth first, so that a counterexample is a shortest one. Stops, incomplete, at `max_states`."""
        result = Result()
        with self._rules.installed():
            origins = self._begin()
            queue = deque([next(reversed(origins))])
            while queue and result.broken is None and len(origins) < max_states:
                self._expand(queue.popleft(), origins, queue, result)
        result.states = len(origins)
        result.complete = not queue and result.broken is None
        return result

    def _begin(self) -> dict[World, _Origin | None]:
        """The states up to where the exploration begins, in order."""
        world = self._scenario.first(epochs_of_the_group=self._rules.epochs_of_the_group)
        origins: dict[World, _Origin | None] = {world: None}
        for label in self._scenario.begins:
            step = next(step for step in self._mesh.steps(world) if step.label.startswith(label))
            origins[step.world] = _Origin(world, step.label)
            world = step.world
        return origins

    def _expand(
        self, world: World, origins: dict[World, _Origin | None], queue: "deque[World]", result: Result
    ) -> None:
        quiet = True
        for step in self._mesh.steps(world):
            quiet &= step.fault
            if step.world in origins:
                continue
            origins[step.world] = _Origin(world, step.label)
            queue.append(step.world)
            if not self._holds(step.world, result):
                result.trace = _trace(step.world, origins)
                return
        if quiet and not self._holds(world, result, quiet=True):
            result.trace = _trace(world, origins)

    def _holds(self, world: World, result: Result, *, quiet: bool = False) -> bool:
        try:
            if quiet:
                result.quiet += 1
                self._invariants.check_quiet(world)
            else:
                self._invariants.check(world)
        except Broken as broken:
            result.broken = str(broken)
        return result.broken is None

    def wander(self, seed: int, walks: int) -> Result:
        """Random walks to the end, each step equally likely but faults rare: reaches what is too deep to exhaust."""
        rng = random.Random(seed)
        result = Result()
        with self._rules.installed():
            origins = self._begin()
            for _ in range(walks):
                self._walk(rng, origins, result)
                if result.broken is not None:
                    break
        return result

    def _walk(self, rng: random.Random, origins: dict[World, _Origin | None], result: Result) -> None:
        world = next(reversed(origins))
        labels = [origin.label for origin in origins.values() if origin is not None]
        while True:
            step = _choose(rng, list(self._mesh.steps(world)))
            if step is None:
                if not self._holds(world, result, quiet=True):
                    result.trace = _numbered(labels)
                return
            world = step.world
            labels.append(step.label)
            result.states += 1
            if not self._holds(world, result):
                result.trace = _numbered(labels)
                return


_FAULT_CHANCE = 0.15


def _choose(rng: random.Random, steps: list[Step]) -> Step | None:
    """None when only faults are left: the walk is over."""
    plain = [step for step in steps if not step.fault]
    faults = [step for step in steps if step.fault]
    if not plain:
        return None
    return rng.choice(faults if faults and rng.random() < _FAULT_CHANCE else plain)


def _trace(world: World, origins: dict[World, _Origin | None]) -> list[str]:
    labels = []
    origin = origins[world]
    while origin is not None:
        labels.append(origin.label)
        origin = origins[origin.world]
    return _numbered(reversed(labels))


def _numbered(labels: Iterable[str]) -> list[str]:
    return [f"{number:3}. {label}" for number, label in enumerate(labels, start=1)]
