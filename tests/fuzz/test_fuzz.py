"""Ten thousand malformed and hostile inputs: no 5xx, no hang, no leak between tenants, flat memory, silent logs."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.fuzz import strategies
from tests.fuzz.attacks import Attack
from tests.fuzz.memory import Growth, Level
from tests.fuzz.target import MODEL, Target

SCALE = float(os.environ.get("CHATMESH_FUZZ_SCALE", "1"))
SEED = int(os.environ.get("CHATMESH_FUZZ_SEED", "1"))
ROUNDS = 5
_WARM_UP = 0.1
"""The share that comes before the first round, and does not count."""


@dataclass(frozen=True)
class Kind:
    """`batch` inputs are sent at once; `count` in all at scale 1. `make` gets the ids of another tenant's responses."""

    make: Callable[[tuple[str, ...]], SearchStrategy[Any]]
    count: int
    batch: int = 20


KINDS = {
    "bodies": Kind(lambda _: strategies.bodies(), 4000),
    "requests": Kind(strategies.requests, 2500),
    "protocols": Kind(lambda _: strategies.protocols(), 1500, batch=50),
    "events": Kind(lambda _: strategies.sockets(), 1000),
    "frames": Kind(lambda _: strategies.frames(), 800),
    "handshakes": Kind(strategies.handshakes, 600),
}


def storm(target: Target, runner: asyncio.Runner, name: str, share: float, number: int) -> int:
    """Send a share of a kind's inputs, and say how many. They are small already, and what breaks may depend on its
    neighbours: nothing is shrunk, but the input that failed stands in the error's note."""
    kind, failed, sent = KINDS[name], list[Exception](), 0

    @seed(number)
    @settings(
        max_examples=-(-round(kind.count * share) // kind.batch),
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(kind.make(tuple(target.planted)), min_size=kind.batch, max_size=kind.batch))
    def send(attacks: list[Attack]) -> None:
        nonlocal sent
        if failed:  # hypothesis wants to see it again, and would show the whole batch
            return
        sent += len(attacks)
        try:
            runner.run(together(target, attacks))
        except Exception as error:
            failed.append(error)
            raise

    try:
        send()
    finally:
        if failed:
            raise failed[0] from None
    target.inputs[name] += sent
    return sent


async def together(target: Target, attacks: list[Attack]) -> None:
    """All at once. Raises what the first of them found, with the attack that found it."""
    found = await asyncio.gather(*(attack.play(target) for attack in attacks), return_exceptions=True)
    for attack, error in zip(attacks, found, strict=True):
        if error is not None:
            error.add_note(f"found by {attack!r}"[:4000])
            raise error


@pytest.fixture(scope="module")
def levels(target: Target, runner: asyncio.Runner) -> dict[str, list[Level]]:
    """Every service's memory, first after some of everything: what a process keeps for good, it has then."""
    for name in KINDS:
        storm(target, runner, name, _WARM_UP, SEED)
    target.inputs.clear()
    return {service: [Level(resident, 0)] for service, resident in target.resident().items()}


@pytest.mark.parametrize("number", range(1, ROUNDS + 1))
def test_every_input_has_a_proper_answer_in_time(
    target: Target, runner: asyncio.Runner, levels: dict[str, list[Level]], number: int
) -> None:
    for name in KINDS:
        storm(target, runner, name, SCALE / ROUNDS, SEED + number)
    for service, resident in target.resident().items():
        levels[service].append(Level(resident, target.inputs.total()))


def test_nothing_is_left_of_them(target: Target, runner: asyncio.Runner, levels: dict[str, list[Level]]) -> None:
    growth = {service: Growth(seen) for service, seen in levels.items()}
    print(target.report(), *(f"{service}: {grown}" for service, grown in growth.items()), sep="\n")
    assert target.inputs.total() >= SCALE * sum(kind.count for kind in KINDS.values())
    assert not growth["gateway-1"].leaks, f"the gateway keeps what it is sent: {growth['gateway-1']}"
    assert not target.troubles()
    whole = {"model": MODEL, "input": "hello", "max_output_tokens": 5}
    assert runner.run(target.ask("POST", "/v1/responses", whole)).status == 200
