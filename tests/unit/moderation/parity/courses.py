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
from shared.records import Events, Finish, Incomplete, Journal, Rejected, Tokens, Verdict
from shared.records.codec import Envelope
from shared.topics import EVENTS, JOURNAL, REPLIES, VERDICTS, Topic
from tests.chaos.evidence import Evidence, Violation
from tests.chaos.evidence import Screening as Forbidding
from tests.chaos.logrules import check_logs
from tests.support.backends import WordBackend
from tests.support.fakes import MemoryLog, settle
from tests.support.owner_bench import OwnerBench, claimed, gateway_beat, requested, response_id, worker_beat

PATIENCE_S = 10.0
RESPONSE = response_id(1)

Backends = Callable[[Sequence[int]], Mapping[str, WordBackend]]
"""Makes what one owner asks, by name; it is given the latency of each call, in turns of the event loop."""


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

    def journal(self) -> list[Tokens]:
        """What the worker appends; the finish rides on the last record."""
        groups = list(_grouped(self.tokens, self.records)) or [[]]
        starts = itertools.accumulate((len(group) for group in groups), initial=0)
        return [
            Tokens(
                response_id=RESPONSE,
                claim="claim_a",
                position=start,
                ids=[1000 + start + index for index in range(len(group))],
                pieces=list(group),
                finish=Finish(reason="stop", input_tokens=5) if number == len(groups) else None,
            )
            for number, (group, start) in enumerate(zip(groups, starts, strict=False), start=1)
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
    latencies aside."""

    text: str
    end: str
    verdicts: Mapping[str, tuple[Any, ...]]
    log: MemoryLog = field(compare=False, repr=False)

    @property
    def cut(self) -> bool:
        """The text ended where moderation said so."""
        return self.end == "incomplete content_filter"

    def of(self, action: str) -> list[tuple[str | None, int, int]]:
        """Category and place of every verdict on output that did this, in order."""
        found = [v for v in self.log.of(VERDICTS, Verdict) if (v.stage, v.action) == ("output", action)]
        return sorted({(v.category, v.start, v.end) for v in found}, key=lambda place: place[1:])


def outcome(log: MemoryLog) -> Outcome:
    """What stands in the logs of the response."""
    fold = public(log)
    refusals = log.of(REPLIES, Rejected)
    if fold.terminal is None:
        assert refusals, "the response has no end"
        return Outcome("", refusals[0].code, verdicts(log), log)
    assert fold.text == fold.terminal.text
    kind = type(fold.terminal).__name__.lower()
    reason = fold.terminal.reason if isinstance(fold.terminal, Incomplete) else getattr(fold.terminal, "code", "")
    return Outcome(fold.text, f"{kind} {reason}".strip(), verdicts(log), log)


def verdicts(log: MemoryLog) -> dict[str, tuple[Any, ...]]:
    """Id → decision; one id never stands for two."""
    found: dict[str, tuple[Any, ...]] = {}
    for verdict in log.of(VERDICTS, Verdict):
        asked = tuple((report.name, report.revision, report.status) for report in verdict.backends)
        place = (verdict.stage, verdict.action, verdict.category, verdict.window, verdict.start, verdict.end)
        scores = tuple(sorted(verdict.scores.items())), tuple(sorted(verdict.thresholds.items()))
        decided = (*place, verdict.policy, *scores, asked)
        assert found.setdefault(verdict.verdict_id, decided) == decided, "one id, two verdicts"
    return found


def public(log: MemoryLog) -> EventFold:
    """The public log as any reader folds it."""
    fold = EventFold()
    for record in log.of(EVENTS):
        fold.apply(record)
    return fold


def in_dialects(log: MemoryLog) -> dict[str, str]:
    """The text that each kind of client has in the end, streamed or whole."""
    streamed: dict[str, str] = {}
    for dialect, text_of in ((RESPONSES, _responses_text), (CHAT, _chat_text)):
        streamed[dialect.name] = "".join(map(text_of, _told_in(dialect, log.of(EVENTS))))
    projection = ResponsesProjection(parse_response_id(RESPONSE))
    for record in log.of(EVENTS):
        projection.feed(record)
    response = projection.response()
    assert response is not None
    whole = "".join(part["text"] for item in response["output"] for part in item["content"])
    return {**streamed, "whole": whole}


def _responses_text(event: Any) -> str:
    told = json.loads(event.json)
    return str(told["delta"]) if told["type"] == "response.output_text.delta" else ""


def _chat_text(part: Any) -> str:
    return json.loads(b"{%b}" % part.json)["delta"].get("content") or ""


def _told_in(dialect: Dialect[Any], records: Sequence[Events]) -> list[Any]:
    fold = EventFold()
    projection = dialect.projection(parse_response_id(RESPONSE), fold)
    counted = (fold.apply(record) for record in records)
    return [event for record in counted if record is not None for event in projection.project(record)]


def violations(log: MemoryLog, forbidding: Forbidding | None = None) -> list[Violation]:
    """What the checker of the chaos suite finds. Its clock is the order in which the records came into the log, so
    that "earlier" leaves no room."""
    evidence = Evidence(
        lines=[],
        journals={RESPONSE: _in_order(log, JOURNAL)},
        events={RESPONSE: _in_order(log, EVENTS)},
        references={},
        screening=forbidding,
        verdicts={RESPONSE: _in_order(log, VERDICTS)},
    )
    return list(check_logs(RESPONSE, evidence))


def _in_order(log: MemoryLog, topic: Topic) -> list[Envelope[Any]]:
    return [
        Envelope(decode(topic, raw).record, topic.name, raw.partition, raw.offset, number)
        for number, (where, raw) in enumerate(log.order)
        if where is topic
    ]


# -- the run -------------------------------------------------------------------------------------------------------


class Run:
    """One response with its owners, on one log."""

    def __init__(self, policy: str, course: Course, backends: Backends | None, **request: Any) -> None:
        self.log = MemoryLog()
        self._policy = policy
        self._course = course
        self._backends = backends
        self._request = request
        self._generation = 0
        self._paused: list[OwnerBench] = []

    async def play(self) -> MemoryLog:
        """The whole course, to the response's end."""
        bench = await self._owner()
        batches: list[list[Journal]] = [[requested(**self._request)], [claimed()]]
        batches += _grouped(self._course.journal(), self._course.batches)
        for number, batch in enumerate(batches):
            for _, lost in (death for death in self._course.deaths if death[0] == number):
                bench = await self._replace(bench, lost)
            await bench.together(*batch)
        deaths_at_the_end = [lost for at, lost in self._course.deaths if at >= len(batches)]
        for lost in deaths_at_the_end:
            bench = await self._replace(bench, lost)
        await self._ended(bench)
        for paused in self._paused:
            await paused.pump()
        return self.log

    async def _owner(self) -> OwnerBench:
        self._generation += 1
        chosen = {} if self._backends is None else {"backends": self._backends(self._course.turns)}
        bench = OwnerBench(
            self.log,
            service_id=f"moderation_{self._generation}",
            policy=self._policy,
            generation=self._generation,
            **chosen,
        )
        bench.hear(gateway_beat(), worker_beat(claims=["claim_a"] if self._generation > 1 else []))
        await bench.start()
        return bench

    async def _replace(self, bench: OwnerBench, lost: int) -> OwnerBench:
        """Another owner takes over; of the first one's public records the last `lost` never came into the log."""
        if self._course.late:
            self._paused.append(bench)
        else:
            await bench.owner.drop([bench.partition])
            _forget_last(self.log, EVENTS, bench.partition, lost)
        return await self._owner()

    async def _ended(self, bench: OwnerBench) -> None:
        """Until the public log has the end, or the client was refused."""
        async with asyncio.timeout(PATIENCE_S):
            while public(self.log).terminal is None and not self.log.of(REPLIES, Rejected):
                await bench.pump()
                await asyncio.sleep(0)
        await settle()
        await bench.pump()


def _forget_last(log: MemoryLog, topic: Topic, partition: int, number: int) -> None:
    stored = log.partitions.get((topic.name, partition), [])
    lost = stored[max(0, len(stored) - number) :]
    del stored[len(stored) - len(lost) :]
    gone = {id(raw) for raw in lost}
    log.order = [(where, raw) for where, raw in log.order if id(raw) not in gone]


async def run(policy: str, course: Course, backends: Backends | None = None, **request: Any) -> Outcome:
    """Play a course; `request` changes what is asked."""
    return outcome(await Run(policy, course, backends, **request).play())


async def plain(policy: str, text: str, backends: Backends | None = None, **request: Any) -> Outcome:
    """The course that all others are held against: a letter at a time, one owner, backends that answer at once."""
    return await run(policy, Course(tuple(text)), backends, **request)
