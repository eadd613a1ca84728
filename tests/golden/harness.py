"""Golden cases: what stands in the journal, and to the byte what the shipped code makes of it.

A case is a JSON file in `cases/`. Its `steps` are played to the shipped owner (fold, screen, dispatch, watch) on a
broker in memory; the public log that comes out is projected into the Responses dialect, and told to clients of a
gateway in every dialect of DESIGN 9 (`clients`). `expected` says what must then stand in each log, what a client got,
event by event as bytes, the final Response, and to the byte what each kind of client got. (The bodies of `sse` and
`websocket` are those of `client` in their frames: a test says so, no file repeats them.) Where several responses
are requested, they are the choices of one completion; `client` and `response` are of the first.

Steps:

    {"journal": record}       another service appends to the journal
    {"events": record}        an older owner appends to the public log
    {"beat": heartbeat}       a service lives from now on; the gateway and `worker_1` do from the start
    {"silence": "worker_1"}   a service does not beat any more
    {"advance_ms": 3000}      the log's clock goes on
    {"successor": "name"}     the owner dies, another one takes the partition over

`starting_after` adds what a client gets that resumes behind that sequence number. `policy` is another policy than that
of the tests; `backend` says what each of its backends is (the arguments of `WordBackend`).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec

from services.gateway.projections import ClientEvent, ResponsesProjection
from shared.ids import parse_response_id
from shared.log import decode
from shared.records import Events, Heartbeat, Journal, Rejected, Requested
from shared.records.codec import Envelope
from shared.topics import EVENTS, JOBS, JOURNAL, REPLIES
from tests.golden.clients import Told, tell
from tests.support.backends import WordBackend
from tests.support.fakes import MemoryLog
from tests.support.owner_bench import PARTITION, OwnerBench, gateway_beat, response_id, worker_beat

CASES = sorted((Path(__file__).parent / "cases").glob("*.json"))
RESPONSE_ID = parse_response_id(response_id(1))

Case = dict[str, Any]


def load(path: Path) -> Case:
    """Read a case."""
    case: Case = json.loads(path.read_text(encoding="utf-8"))
    return case


# -- running -------------------------------------------------------------------------------------------------------


async def play(case: Case, *, one_batch: bool = False) -> MemoryLog:
    """Play the case's steps to the shipped owner; all that stands in the logs then.

    `one_batch`: let all records behind the first reach the owner together; the case must have journal steps only.
    """
    log = MemoryLog()
    with patch("services.moderation.owner.output.now_ms", lambda: log.now_ms):
        bench = await _owner(case, log, "moderation_1", worker_beat())
        if one_batch:
            first, *others = (msgspec.convert(step["journal"], Journal) for step in case["steps"])
            await bench.journal(first)
            await bench.together(*others)
        else:
            for step in case["steps"]:
                bench = await _play_step(case, bench, step)
        await bench.tick()
    return log


async def _owner(case: Case, log: MemoryLog, service_id: str, *workers: Heartbeat, generation: int = 1) -> OwnerBench:
    bench = OwnerBench(log, service_id=service_id, generation=generation, **_judging(case))
    bench.hear(gateway_beat(), *workers)
    await bench.start()
    return bench


def _judging(case: Case) -> dict[str, Any]:
    if "policy" not in case:
        return {}
    return {"policy": case["policy"], "build": lambda name, _: WordBackend(name, **case["backend"], noise=0.0)}


async def _play_step(case: Case, bench: OwnerBench, step: dict[str, Any]) -> OwnerBench:
    ((kind, value),) = step.items()
    match kind:
        case "journal":
            await bench.journal(msgspec.convert(value, Journal))
        case "events":
            bench.log.append(EVENTS, msgspec.convert(value, Events))
        case "beat":
            bench.hear(msgspec.convert(value, Heartbeat))
        case "silence":
            bench.silence(value)
        case "advance_ms":
            await bench.advance(value)
        case "successor":
            workers = [beat for beat in bench.living.values() if beat.service == "inference"]
            return await _owner(case, bench.log, value, *workers, generation=bench.generation + 1)
        case _:
            raise ValueError(f"no step is called {kind!r}")
    return bench


# -- results -------------------------------------------------------------------------------------------------------


def public_log(log: MemoryLog, of: str = RESPONSE_ID.text) -> list[Envelope[Events]]:
    """A response's public log, as any reader decodes it."""
    return [decode(EVENTS, raw) for raw in log.read(EVENTS, PARTITION) if raw.key == of]


def told(log: MemoryLog) -> Told:
    """What a gateway's clients are told of the responses that were requested."""
    requested = [record.response_id for record in log.of(JOURNAL, Requested)]
    logs = [[envelope.record for envelope in public_log(log, response_id)] for response_id in requested]
    return Told([records for records in logs if records], next(iter(log.of(REPLIES, Rejected)), None))


def project(records: list[Envelope[Events]]) -> tuple[list[ClientEvent], dict[str, Any] | None]:
    """What a client gets of these records, and the Response in the end."""
    projection = ResponsesProjection(RESPONSE_ID)
    events = [event for envelope in records for event in projection.feed(envelope.record)]
    return events, projection.response()


async def outcome(case: Case, log: MemoryLog) -> dict[str, Any]:
    """What came of the case, in the shape of its `expected`."""
    events, response = project(public_log(log))
    found = {
        "journal": _plain(log.of(JOURNAL)),
        "events": _plain(log.of(EVENTS)),
        "jobs": _plain(log.of(JOBS)),
        "replies": _plain(log.of(REPLIES)),
        "dead_letters": _plain(log.dead_letters(JOBS) + log.dead_letters(JOURNAL)),
        "client": [event.json.decode() for event in events],
        "response": response,
    }
    if (after := case.get("starting_after")) is not None:
        found["resumed"] = [event.json.decode() for event in events if event.sequence_number > after]
    clients = await tell(told(log))
    return found | {name: clients[name] for name in ("json", "chat_json", "chat_sse", "stored")}


def _plain(records: list[Any]) -> list[Any]:
    return [json.loads(msgspec.json.encode(record)) for record in records]


def differences(expected: dict[str, Any], found: dict[str, Any]) -> Iterator[str]:
    """Where the outcome is not what the case says, one line for each place; none if they are equal to the byte."""
    for section in sorted(expected.keys() | found.keys()):
        want, got = expected.get(section), found.get(section)
        if isinstance(want, list) and isinstance(got, list):
            yield from _list_differences(section, want, got)
        elif json.dumps(want) != json.dumps(got):
            yield f"{section}: expected {want!r}, got {got!r}"


def _list_differences(section: str, want: list[Any], got: list[Any]) -> Iterator[str]:
    for index in range(max(len(want), len(got))):
        expected = want[index] if index < len(want) else "nothing"
        found = got[index] if index < len(got) else "nothing"
        if expected != found:
            yield f"{section}[{index}]: expected {expected!r}, got {found!r}"
