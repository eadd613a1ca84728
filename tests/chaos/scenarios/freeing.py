"""What nobody wants any more gives its slot back: cancelled, left by its reader, or left by a gateway that died."""

import asyncio
import signal
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any

import msgspec

from shared.records import Cancel, Claimed, JournalRecord
from shared.records.codec import Envelope
from shared.topics import JOURNAL, Service
from tests.chaos.clients import Gateway
from tests.chaos.evidence import Harm, SubLog, Violation
from tests.chaos.figures import row
from tests.chaos.observations import CREATED, now
from tests.chaos.scenarios import logs
from tests.chaos.scenarios.requests import cancelled, created, freed
from tests.chaos.scenarios.rules import Ended, claims_of
from tests.chaos.scenarios.stage import GRACE_S, PATIENCE_S, Outcome, Question, Stage, gateway
from tests.chaos.wire import request

CANCELS = 32
LEFT = 8
TOKENS = 400
"""Twenty seconds: nothing ends by itself meanwhile."""
SILENT_S = 1.0
"""Without heartbeats for so long, a gateway counts as dead (`silent_after_s`)."""
SPACING_S = 0.1
SLACK_S = 8.0
BEAT_S = 0.2
"""A gateway's last heartbeat may be so old when it dies."""
POLL_S = 0.2


async def cancels(stage: Stage) -> Outcome:
    """Many responses, cancelled one after the other at both gateways."""
    questions = await stage.questions(4, TOKENS)
    entrances = cycle(stage.gateways())
    ids = [await created(stage, questions[n % 4], at=next(entrances), background=True) for n in range(CANCELS)]
    await _until(stage, ids, Claimed)
    answered: list[float] = []
    for response_id in ids:
        begun = now()
        await cancelled(next(entrances), response_id)
        answered.append(now() - begun)
        await asyncio.sleep(SPACING_S)
    waits, found = await _freed(stage, await _until(stage, ids, Cancel))
    rows = [row("cancel: decided to free slot", CANCELS, waits), row("cancel: request to answer", CANCELS, answered)]
    return Outcome(found, rows)


async def abandoned(stage: Stage) -> Outcome:
    """Readers leave, and readers lose their gateway to SIGKILL: the grace ends what they read."""
    here, there = stage.mesh.of(Service.GATEWAY)
    (question,) = await stage.questions(1, TOKENS)
    ids: list[str] = []
    readers = [
        asyncio.create_task(_read(gateway(replica), question, ids)) for replica in (here, there) for _ in range(LEFT)
    ]
    await _until_known(ids, len(readers))
    await _until(stage, ids, Claimed)
    gone_s = now()
    there.process.signal(signal.SIGKILL)
    for reader in readers:
        reader.cancel()
    await asyncio.gather(*readers, return_exceptions=True)
    journals = await _until(stage, ids, Cancel)
    patience = [_first(journals[response_id], Cancel).timestamp_ms / 1000 - gone_s for response_id in ids]
    found = [v for pair in zip(ids, patience, strict=True) for v in _patient(*pair)]
    waits, taken = await _freed(stage, journals)
    stage.mesh.retire(there)
    stage.mesh.add(Service.GATEWAY)
    await stage.mesh.wait_ready()
    rows = [row("abandoned: gone to cancelled", 2, patience), row("abandoned: cancelled to free slot", 2, waits)]
    return Outcome([*found, *taken], rows)


def _patient(response_id: str, wait_s: float) -> Iterator[Violation]:
    longest_s = SILENT_S + GRACE_S + SLACK_S
    if not GRACE_S - BEAT_S <= wait_s <= longest_s:
        detail = f"cancelled {wait_s:.2f} s after its reader was gone, {GRACE_S:g} to {longest_s:g} s were due"
        yield Violation(Harm.HELD, response_id, detail)


async def _freed(stage: Stage, journals: Mapping[str, SubLog]) -> tuple[list[float], list[Violation]]:
    """How long the slots of cancelled responses stayed taken."""
    ended = []
    for response_id, journal in journals.items():
        claim, at = claims_of(journal)[-1].record, _first(journal, Cancel).timestamp_ms
        ended.append(Ended(response_id, claim.claim, claim.worker, at))
    return await freed(stage, ended)


async def _until(stage: Stage, ids: Sequence[str], kind: type[JournalRecord]) -> dict[str, SubLog]:
    """The journals, once each holds such a record. Raises TimeoutError."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = await logs.sub_logs(stage.mesh, JOURNAL)
            journals: dict[str, SubLog] = {response_id: found.get(response_id, ()) for response_id in ids}
            if all(any(isinstance(e.record, kind) for e in journal) for journal in journals.values()):
                return journals
            await asyncio.sleep(POLL_S)


async def _until_known(ids: Sequence[str], number: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while len(ids) < number:
            await asyncio.sleep(POLL_S)


async def _read(at: Gateway, question: Question, ids: list[str]) -> None:
    """Read until cancelled, or until the connection breaks; the response's id goes into `ids`."""
    async with request("POST", f"{at.url}/responses", json=question.wanted(stream=True)) as answer:
        async for data in answer.events():
            event = msgspec.json.decode(data)
            if event["type"] == CREATED:
                ids.append(event["response"]["id"])


def _first(journal: SubLog, kind: type[JournalRecord]) -> Envelope[Any]:
    return next(envelope for envelope in journal if isinstance(envelope.record, kind))
