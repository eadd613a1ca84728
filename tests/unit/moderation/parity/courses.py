"""The same text on many courses through the shipped owner: what came of it, as the public and as auditors know it.

A course is everything that must not matter (DESIGN 6.3): how the text came in tokens, tokens in records and records in
batches, how long a backend took over each call, when an owner died and what of its work had reached the public log.
"""

import asyncio
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from services.gateway.projections import RESPONSES, Dialect, ResponsesProjection
from services.gateway.projections.chat import CHAT
from shared.folds import EventFold
from shared.ids import parse_response_id
from shared.log import decode
from shared.records import Events, Finish, Incomplete, Journal, ModerationResult, Rejected, Tokens
from shared.records.codec import Envelope
from shared.topics import EVENTS, JOURNAL, REPLIES, VERDICTS, Topic
from tests.chaos.evidence import Evidence, Violation
from tests.chaos.evidence import Screening as Forbidding
from tests.chaos.logrules import check_logs
from tests.support.backends import WordBackend
from tests.support.fakes import MemoryLog
from tests.support.owner_bench import OwnerBench, claimed, gateway_beat, requested, response_id, worker_beat

PATIENCE_S = 60.0
"""Against a hang: a run takes a few milliseconds, with a model a few seconds."""

MakeBackend = Callable[[str, Sequence[int]], WordBackend]
"""Makes the backend of this name for one owner; it is given the latency of each call, in turns of the event loop."""


@dataclass(frozen=True)
class Course:
    """`tokens`: the pieces of the text. `records`: how many tokens each record has (those left: one each). `batches`:
    how many records reach the owner at once (those left: one by one). `turns`: the latency of each call of a backend
    (see WordBackend). `deaths`: after so many batches the owner dies; so many of its last public records were never
    written. `late`: dead owners were only paused, and go on behind their successors' backs."""

    tokens: tuple[str, ...]
    records: tuple[int, ...] = ()
    batches: tuple[int, ...] = ()
    turns: tuple[int, ...] = ()
    deaths: tuple[tuple[int, int], ...] = ()
    late: bool = False

    def journal(self, number: int = 1) -> list[Tokens]:
        """What the worker of the response `number` appends; the finish rides on the last record."""
        groups = list(_grouped(self.tokens, self.records)) or [[]]
        starts = itertools.accumulate((len(group) for group in groups), initial=0)
        return [
            Tokens(
                response_id=response_id(number),
                claim="claim_a",
                position=start,
                ids=list(range(1000 + start, 1000 + start + len(group))),
                pieces=list(group),
                finish=Finish(reason="stop", input_tokens=5) if index == len(groups) else None,
            )
            for index, (group, start) in enumerate(zip(groups, starts, strict=False), start=1)
        ]


def _grouped(items: Sequence[Any], sizes: Sequence[int]) -> Iterator[list[Any]]:
    position = 0
    for size in itertools.chain(sizes, itertools.repeat(1)):
        if position >= len(items):
            return
        yield list(items[position : position + size])
        position += size


def splits(text: str) -> st.SearchStrategy[tuple[str, ...]]:
    """Every way to cut a text into tokens, empty ones too: a token whose character is not whole yet says nothing."""
    places = st.lists(st.integers(0, len(text)), max_size=12)
    letters = st.just(tuple(text))
    return st.one_of(letters, places.map(lambda at: _pieces(text, sorted(at))))


def _pieces(text: str, at: Sequence[int]) -> tuple[str, ...]:
    return tuple(text[start:end] for start, end in itertools.pairwise([0, *at, len(text)]))


def courses(text: str, *, owners: int = 3) -> st.SearchStrategy[Course]:
    """Any course of a text, with at most so many owners."""
    deaths = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 3)), max_size=owners - 1)
    sizes = st.lists(st.integers(1, 9), max_size=20).map(tuple)
    return st.builds(
        Course,
        tokens=splits(text),
        records=sizes,
        batches=sizes,
        turns=st.lists(st.sampled_from([0, 0, 1, 7, 60, 200]), max_size=40).map(tuple),
        deaths=deaths.map(lambda found: tuple(sorted(found))),
        late=st.booleans(),
    )


# -- what came of it -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """`end` is the kind of the terminal and its reason, or the code of a refusal; `verdicts`: id → what was decided,
    latencies aside; `told`: what a request that asked for it is told of its input and its output."""

    text: str
    end: str
    verdicts: Mapping[str, tuple[Any, ...]]
    told: tuple[ModerationResult | None, ModerationResult | None]
    position: int = field(compare=False)
    log: MemoryLog = field(compare=False, repr=False)
    number: int = field(compare=False, default=1)

    @property
    def cut(self) -> bool:
        """The text ended where moderation said so."""
        return self.end == "incomplete content_filter"

    def places(self, action: str) -> list[tuple[str, int, int]]:
        """Category and place of every finding in the output about which this was done, in order."""
        found = [v for v in records(self.log, VERDICTS, self.number) if (v.stage, v.action) == ("output", action)]
        named = {(v.category, v.start, v.end) for v in found if v.category is not None}
        return sorted(named, key=lambda place: place[1:])


def outcome(log: MemoryLog, number: int = 1) -> Outcome:
    """What stands in the logs of a response."""
    fold = public(log, number)
    judged = verdicts(log, number)
    if fold.terminal is None:
        (refusal, *_) = [r for r in log.of(REPLIES, Rejected) if r.correlation_id == response_id(number)]
        return Outcome("", refusal.code, judged, (None, None), 0, log, number)
    assert fold.accepted is not None
    assert fold.text == fold.terminal.text
    kind = type(fold.terminal).__name__.lower()
    reason = fold.terminal.reason if isinstance(fold.terminal, Incomplete) else getattr(fold.terminal, "code", "")
    told = fold.accepted.moderation, fold.terminal.moderation
    return Outcome(fold.text, f"{kind} {reason}".strip(), judged, told, fold.position, log, number)


def verdicts(log: MemoryLog, number: int = 1) -> dict[str, tuple[Any, ...]]:
    """Id → decision; one id never stands for two."""
    found: dict[str, tuple[Any, ...]] = {}
    for verdict in records(log, VERDICTS, number):
        asked = tuple((report.name, report.revision, report.status) for report in verdict.backends)
        place = (verdict.stage, verdict.action, verdict.category, verdict.window, verdict.start, verdict.end)
        scores = tuple(sorted(verdict.scores.items())), tuple(sorted(verdict.thresholds.items()))
        decided = (*place, verdict.policy, *scores, asked)
        assert found.setdefault(verdict.verdict_id, decided) == decided, "one id, two verdicts"
    return found


def public(log: MemoryLog, number: int = 1) -> EventFold:
    """The public log as any reader folds it."""
    fold = EventFold()
    for record in records(log, EVENTS, number):
        fold.apply(record)
    return fold


def records(log: MemoryLog, topic: Topic, number: int = 1) -> list[Any]:
    """What stands in a topic about the response `number`."""
    return [record for record in log.of(topic) if record.response_id == response_id(number)]


def in_dialects(log: MemoryLog) -> dict[str, str]:
    """The text that each kind of client has in the end, streamed or whole."""
    told = records(log, EVENTS)
    streamed = {
        dialect.name: "".join(map(text_of, _told_in(dialect, told)))
        for dialect, text_of in ((RESPONSES, _responses_text), (CHAT, _chat_text))
    }
    projection = ResponsesProjection(parse_response_id(response_id(1)))
    for record in told:
        projection.feed(record)
    response = projection.response()
    assert response is not None
    return {**streamed, "whole": "".join(part["text"] for item in response["output"] for part in item["content"])}


def _told_in(dialect: Dialect[Any], told: Sequence[Events]) -> list[Any]:
    fold = EventFold()
    projection = dialect.projection(parse_response_id(response_id(1)), fold)
    counted = (fold.apply(record) for record in told)
    return [event for record in counted if record is not None for event in projection.project(record)]


def _responses_text(event: Any) -> str:
    told = json.loads(event.json)
    return str(told["delta"]) if told["type"] == "response.output_text.delta" else ""


def _chat_text(part: Any) -> str:
    return json.loads(b"{%b}" % part.json)["delta"].get("content") or ""


def violations(log: MemoryLog, forbidding: Forbidding | None = None, number: int = 1) -> list[Violation]:
    """What the checker of the chaos suite finds. Its clock is the order in which the records came into the log, so
    that "earlier" leaves no room."""
    name = response_id(number)
    evidence = Evidence(
        lines=[],
        journals={name: _in_order(log, JOURNAL, name)},
        events={name: _in_order(log, EVENTS, name)},
        references={},
        screening=forbidding,
        verdicts={name: _in_order(log, VERDICTS, name)},
    )
    return list(check_logs(name, evidence))


def _in_order(log: MemoryLog, topic: Topic, key: str) -> list[Envelope[Any]]:
    return [
        Envelope(decode(topic, raw).record, topic.name, raw.partition, raw.offset, number)
        for number, (where, raw) in enumerate(log.order)
        if where is topic and raw.key == key
    ]


# -- the run -------------------------------------------------------------------------------------------------------


class Run:
    """One response with its owners, on one log. `request` changes what is asked."""

    def __init__(self, policy: str, course: Course, backend: MakeBackend | None, request: Mapping[str, Any]) -> None:
        self.log = MemoryLog()
        self._policy = policy
        self._course = course
        self._backend = backend
        self._request = request
        self._generation = 0
        self._paused: list[OwnerBench] = []

    async def play(self) -> MemoryLog:
        """The whole course, to the response's end."""
        bench = await self._owner()
        batches: list[list[Journal]] = [[requested(**self._request)], [claimed()]]
        batches += _grouped(self._course.journal(), self._course.batches)
        for index, batch in enumerate(batches):
            bench = await self._die(bench, lambda at, index=index: at == index)
            await bench.together(*batch)
        bench = await self._die(bench, lambda at: at >= len(batches))
        await until_ended(bench, 1)
        for paused in self._paused:
            await paused.pump()
        return self.log

    async def _owner(self) -> OwnerBench:
        self._generation += 1
        bench = owner(self.log, self._policy, self._backend, turns=self._course.turns, generation=self._generation)
        await bench.start()
        return bench

    async def _die(self, bench: OwnerBench, now: Callable[[int], bool]) -> OwnerBench:
        """Let others take over where the course says so; of what a dead one published, the last never came into the
        log."""
        for at, lost in self._course.deaths:
            if not now(at):
                continue
            if self._course.late:
                self._paused.append(bench)
            else:
                await bench.owner.drop([bench.partition])
                _forget_last(self.log, EVENTS, bench.partition, lost)
            bench = await self._owner()
        return bench


def owner(
    log: MemoryLog, policy: str, backend: MakeBackend | None = None, *, turns: Sequence[int] = (), generation: int = 1
) -> OwnerBench:
    """An owner that asks these backends; a gateway and a worker live beside it."""
    chosen = {} if backend is None else {"build": lambda name, _: backend(name, turns)}
    bench = OwnerBench(log, service_id=f"moderation_{generation}", policy=policy, generation=generation, **chosen)
    bench.hear(gateway_beat(), worker_beat(slots=64, claims=["claim_a"] if generation > 1 else []))
    return bench


async def until_ended(bench: OwnerBench, *numbers: int) -> None:
    """Until these responses have an end, or their clients were refused."""
    async with asyncio.timeout(PATIENCE_S):
        while not all(_ended(bench.log, number) for number in numbers):
            await bench.pump()
            await asyncio.sleep(0)
    await bench.pump()


def _ended(log: MemoryLog, number: int) -> bool:
    refused = {rejected.correlation_id for rejected in log.of(REPLIES, Rejected)}
    return response_id(number) in refused or public(log, number).terminal is not None


def _forget_last(log: MemoryLog, topic: Topic, partition: int, number: int) -> None:
    stored = log.partitions.get((topic.name, partition), [])
    lost = stored[max(0, len(stored) - number) :]
    del stored[len(stored) - len(lost) :]
    gone = {id(raw) for raw in lost}
    log.order = [(where, raw) for where, raw in log.order if id(raw) not in gone]


async def run(policy: str, course: Course, backend: MakeBackend | None = None, /, **request: Any) -> Outcome:
    """Play a course; `request` changes what is asked."""
    return outcome(await Run(policy, course, backend, request).play())


async def plain(policy: str, text: str, backend: MakeBackend | None = None, /, **request: Any) -> Outcome:
    """The course that all others are held against: a letter at a time, one owner, backends that answer at once."""
    return await run(policy, Course(tuple(text)), backend, **request)
