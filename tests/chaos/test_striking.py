"""Who may be down together: replicas of different services, never two of one, and nobody beside the broker."""

import asyncio
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shared.topics import Service
from tests.chaos import striking
from tests.chaos.faults import Fault, Scene
from tests.chaos.observations import Healed, Injected, Notebook
from tests.chaos.striking import strike_all
from tests.support.mesh import Replica


class Down:
    """What is down now, and whatever was down together."""

    def __init__(self) -> None:
        self.now: list[str] = []
        self.together: set[tuple[str, ...]] = set()


class FakeFault(Fault):
    """Takes its service, or the broker, down for a few turns of the loop."""

    def __init__(self, down: Down, service: Service | None, kind: str) -> None:
        self.service = service
        self.name = f"{service or 'broker'} {kind}"
        self._down = down
        self._what = str(service or "broker")

    async def inject(self, scene: Scene, victim: Replica | None) -> None:
        self._down.now.append(self._what)
        self._down.together.add(tuple(sorted(self._down.now)))

    async def heal(self, scene: Scene, victim: Replica | None) -> bool:
        for _ in range(5):
            await asyncio.sleep(0)
        self._down.now.remove(self._what)
        return False


class FakeMesh:
    settings = None

    def of(self, service: Service) -> list[Any]:
        return [SimpleNamespace(id=f"{service.value}-{n}", service=service) for n in (1, 2)]

    async def wait_ready(self, *, service: Service | None) -> None: ...


class FakeWatcher:
    def __init__(self, *_: Any) -> None:
        self.cluster = SimpleNamespace(members={})

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


async def struck(
    monkeypatch: pytest.MonkeyPatch, folder: Path, down: Down, *, overlap: bool, minutes: float | None = None
) -> list[str]:
    monkeypatch.setattr(striking, "ClusterWatcher", FakeWatcher)
    monkeypatch.setattr(striking, "CALM_S", 0)
    scene: Any = SimpleNamespace(mesh=FakeMesh())
    faults = [FakeFault(down, service, kind) for service in (*Service, None) for kind in ("a", "b")]
    said: list[str] = []
    with Notebook(folder / "notes.jsonl") as notebook:
        await strike_all(
            scene, notebook, faults, 3, minutes=minutes, overlap=overlap, rng=random.Random(1), progress=said.append
        )
    injected = [line.fault for line in notebook.lines if isinstance(line, Injected)]
    assert len(said) == len(injected) == sum(isinstance(line, Healed) for line in notebook.lines)
    return injected


async def test_one_after_the_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    down = Down()
    injected = await struck(monkeypatch, tmp_path, down, overlap=False)
    assert len(injected) == 30 and {injected.count(name) for name in injected} == {3}
    assert all(len(together) == 1 for together in down.together)


async def test_different_services_together_and_the_broker_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    down = Down()
    injected = await struck(monkeypatch, tmp_path, down, overlap=True)
    assert len(injected) == 30 and {injected.count(name) for name in injected} == {3}
    assert max(map(len, down.together)) > 1
    assert all(len(set(together)) == len(together) for together in down.together), "two of one service were down"
    assert all(together == ("broker",) for together in down.together if "broker" in together)


async def test_nothing_strikes_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert await struck(monkeypatch, tmp_path, Down(), overlap=False, minutes=0) == []
