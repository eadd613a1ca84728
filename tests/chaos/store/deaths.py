"""kill -9 of history, again and again, while clients converse: afterwards the store equals the log."""

import asyncio
import contextlib
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.brokers import Broker
from services.history.app import store_of
from services.history.settings import HistorySettings
from services.history.stores.port import ItemPage, Store
from shared.records import Requested
from shared.settings import load_settings
from shared.topics import CONVERSATIONS, EVENTS, JOURNAL, Service
from tests.chaos.evidence import Violation
from tests.chaos.scenarios.logs import TENANT, sub_logs
from tests.chaos.store.load import Load
from tests.chaos.store.notes import Notes
from tests.chaos.store.rules import Kept, Remains, check_store
from tests.support.logs import records
from tests.support.mesh import Mesh, Replica

COUNTS = {Service.GATEWAY: 1, Service.MODERATION: 1, Service.INFERENCE: 1, Service.HISTORY: 2}
ENVIRONMENT = {
    "CHATMESH_ENGINE": "scripted",
    "CHATMESH_SCRIPT_ECHO": "true",
    "CHATMESH_SCRIPT_TOKENS_PER_S": "100",
    "CHATMESH_SLOTS": "256",
}
SETTLED_S = 30.0
"""For so long history may be behind the log when the last client is done."""
_PAGE = 100

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How many responses are asked for, and how replicas die: after `calm_s` of peace one of them, now and then both,
    and each starts anew after `down_s`. Spans in seconds, drawn at random."""

    responses: int = 500
    calm_s: tuple[float, float] = (0.1, 1.5)
    down_s: tuple[float, float] = (0.0, 0.5)
    both: float = 0.2
    seed: int = 1


@dataclass(frozen=True)
class Result:
    """What was broken, and how the run went."""

    violations: list[Violation]
    kills: int
    notes: Notes
    remains: Remains
    took_s: float
    settled_s: float

    def figures(self) -> dict[str, float]:
        """By name; seconds where the name says so."""
        journals, told = self.remains.journals.values(), self.remains.told
        requests = [sum(isinstance(e.record, Requested) for e in journal) for journal in journals]
        waits_s = sorted(self.notes.waits_s)
        return {
            "violations": len(self.violations),
            "kill -9 of history": self.kills,
            "responses in the log": len(self.remains.events),
            "conversations": len(self.notes.stories),
            "conversations deleted": sum(story.deleted for story in self.notes.stories),
            "responses erased": len(self.notes.erased_responses),
            "items kept": sum(len(kept.items) for kept in self.remains.kept.values()),
            "items erased": sum(len(e.lines) for story in self.notes.stories for e in story.erased),
            "requests delivered twice": sum(count - 1 for count in requests if count > 1),
            "conversation events told twice": len(told) - len({e.record.uid for e in told}),
            "calls not answered (503)": self.notes.retried,
            "refused: locked": self.notes.locked,
            "turn, median s": round(statistics.median(waits_s), 2),
            "turn, longest s": round(waits_s[-1], 2),
            "took s": round(self.took_s, 1),
            "store equal to the log after s": round(self.settled_s, 1),
        }


async def deaths_of_history(
    broker: Broker, folder: Path, plan: Plan, *, env: Mapping[str, str] | None = None, progress: Progress = print
) -> Result:
    """Run the plan on a mesh of its own. `env` may name another store. Raises AssertionError when it does not heal."""
    rng = random.Random(plan.seed)
    environment = ENVIRONMENT | dict(env or {})
    async with Mesh(broker, folder, env=environment, counts=COUNTS) as mesh:
        began_s = time.monotonic()
        load = Load(mesh.url, plan.responses, rng)
        enough = asyncio.Event()

        def tell(kills: int) -> None:
            progress(f"{kills} deaths of history, {load.notes.ended} responses ended")

        killing = asyncio.create_task(_kill(mesh, plan, rng, enough, tell), name="deaths")
        try:
            notes = await load.run()
        finally:
            enough.set()
            kills = await killing
        await mesh.wait_ready(service=Service.HISTORY)
        ended_s = time.monotonic()
        remains = await _settled(mesh, notes, environment)
        settled_s = time.monotonic() - ended_s
        return Result(check_store(remains), kills, notes, remains, ended_s - began_s, settled_s)


# -- dying -----------------------------------------------------------------------------------------------------------


async def _kill(mesh: Mesh, plan: Plan, rng: random.Random, enough: asyncio.Event, tell: Callable[[int], None]) -> int:
    """Until it is `enough`; returns how many died."""
    kills = 0
    while not await _happens(enough, within_s=rng.uniform(*plan.calm_s)):
        replicas = mesh.of(Service.HISTORY)
        victims = replicas if rng.random() < plan.both else [rng.choice(replicas)]
        await asyncio.gather(*(_die(mesh, victim, rng.uniform(*plan.down_s)) for victim in victims))
        kills += len(victims)
        tell(kills)
        await mesh.wait_ready(service=Service.HISTORY)
    return kills


async def _happens(event: asyncio.Event, *, within_s: float) -> bool:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), within_s)
    return event.is_set()


async def _die(mesh: Mesh, victim: Replica, down_s: float) -> None:
    victim.process.kill()
    mesh.retire(victim)
    await asyncio.sleep(down_s)
    mesh.add(Service.HISTORY)


# -- what is left ----------------------------------------------------------------------------------------------------


async def _settled(mesh: Mesh, notes: Notes, env: Mapping[str, str]) -> Remains:
    """What is left once the store equals the log, or after SETTLED_S."""
    store = store_of(_history(mesh, env))
    await store.open()
    give_up_s = time.monotonic() + SETTLED_S
    try:
        while True:
            remains = await _remains(mesh, notes, store)
            if not check_store(remains) or time.monotonic() > give_up_s:
                return remains
            await asyncio.sleep(0.5)
    finally:
        await store.close()


def _history(mesh: Mesh, env: Mapping[str, str]) -> HistorySettings:
    named = {"MONGODB_URL": env["MONGODB_URL"]} if "MONGODB_URL" in env else {}
    return load_settings(HistorySettings, data_dir=mesh.folder / "data", **named)


async def _remains(mesh: Mesh, notes: Notes, store: Store) -> Remains:
    events = await sub_logs(mesh, EVENTS)
    return Remains(
        journals=await sub_logs(mesh, JOURNAL),
        events=events,
        responses={response_id: await store.get(TENANT, response_id) for response_id in events},
        kept={story.id: await _kept(store, story.id) for story in notes.stories},
        told=await records(mesh, CONVERSATIONS),
        notes=notes,
    )


async def _kept(store: Store, conversation_id: str) -> Kept:
    conversation = await store.conversation(TENANT, conversation_id)
    page = await store.items(TENANT, conversation_id, limit=_PAGE, order="asc")
    if not isinstance(page, ItemPage):
        return Kept(conversation, [])
    items = page.items
    while page.has_more:
        page = await store.items(TENANT, conversation_id, limit=_PAGE, order="asc", after=items[-1].id)
        assert isinstance(page, ItemPage), f"{conversation_id} went away under its reader"
        items = [*items, *page.items]
    return Kept(conversation, items)
