"""Everything that can happen to the requests of one conversation, in any order: one runs at a time, each sees all that
was said before it, and whatever died, the lock is free once all have ended."""

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.history.handlers import HANDLERS
from services.history.stores.port import Conversation, ItemPage
from services.history.turns import request_with_context
from shared.records import ContextRequested, Failed, Rejected, ReleaseConversation, Requested, Usage
from shared.turns import turn_messages
from tests.unit.history.fakes import NOW_MS, TENANT, MemoryLog, MemoryStore, accepted, asked, completed, ports

CONVERSATION = "conv_1"
REQUESTS = 3

Step = tuple[str, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["deliver", "deliver", "crash", "accept", "end", "fail", "refuse", "record"]),
        st.integers(0, REQUESTS - 1),
    ),
    max_size=40,
)


@dataclass
class World:
    """A store, a log, an owner and a recorder that is as far behind as the steps say; the requests are old or young."""

    old: bool
    store: MemoryStore = field(default_factory=MemoryStore)
    log: MemoryLog = field(default_factory=MemoryLog)
    public: list[Any] = field(default_factory=list)
    recorded: int = 0
    requests: list[ContextRequested] = field(default_factory=list)
    appended: set[str] = field(default_factory=set)
    over: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    said: list[str] = field(default_factory=list)

    async def begin(self) -> None:
        await self.store.create_conversation(Conversation(CONVERSATION, TENANT, NOW_MS), [])
        created_ms = NOW_MS - 5_000 if self.old else NOW_MS
        for n in range(REQUESTS):
            request = asked(None, f"question {n}", conversation=CONVERSATION, created_ms=created_ms)
            self.requests.append(request)

    async def step(self, what: str, n: int) -> None:
        request = self.requests[n]
        response_id = request.request.response_id
        running = response_id in self.appended - self.over
        begun = response_id in self.log.records
        if what == "deliver":
            await self._take(request, answered=True)
        elif what == "crash":
            await self._take(request, answered=False)
        elif what == "accept" and running and not begun:
            self._say(accepted(response_id, text=f"question {n}", conversation=CONVERSATION))
        elif what in ("end", "fail") and running and begun:
            self._end(response_id, failed=what == "fail")
        elif what == "refuse" and running and not begun:
            self.over.add(response_id)
            self.refused.add(response_id)
            await self._release(response_id)
        elif what == "record" and self.recorded < len(self.public):
            await self.store.record([self.public[self.recorded]])
            self.recorded += 1

    async def _take(self, request: ContextRequested, *, answered: bool) -> None:
        """History handles the request; where it dies before it has answered, the lock may be all that is left."""
        outgoing = await request_with_context(request, replace(ports(self.store, self.log), parent_wait_s=0))
        for each in outgoing if answered else ():
            if isinstance(each.record, Rejected):
                assert each.record.code == "conversation_locked"
            elif isinstance(each.record, Requested) and each.record.response_id in self.refused:
                await self._release(each.record.response_id)  # its owner says so once more
            elif isinstance(each.record, Requested) and each.record.response_id not in self.over:
                self._enters(each.record)

    async def _release(self, response_id: str) -> None:
        release = ReleaseConversation(conversation_id=CONVERSATION, response_id=response_id, tenant=TENANT)
        await HANDLERS[ReleaseConversation](release, ports(self.store, self.log))

    def _enters(self, requested: Requested) -> None:
        others = self.appended - self.over - {requested.response_id}
        assert not others, "two responses run in one conversation"
        if requested.response_id not in self.appended:
            assert [message.text for message in requested.context] == self.said, "something said before is missing"
        self.appended.add(requested.response_id)

    def _say(self, record: Any) -> None:
        self.log.records.setdefault(record.response_id, []).append(record)
        self.public.append(record)

    def _end(self, response_id: str, *, failed: bool) -> None:
        terminal: Any = completed(response_id, f"answer to {response_id}")
        if failed:
            usage = Usage(input_tokens=1, output_tokens=0)
            base = {"response_id": response_id, "tenant": TENANT, "text": "", "usage": usage, "finished_ms": NOW_MS}
            terminal = Failed(**base, code="server_error", message="m")
        else:
            begun = self.log.records[response_id][0]
            self.said += [message.text for message in turn_messages(begun, terminal)]
        self._say(terminal)
        self.over.add(response_id)

    async def finish(self) -> None:
        """All that still run end; the recorder may never come: whoever wants the lock next finds out."""
        for n in range(REQUESTS):
            await self.step("accept", n)
            await self.step("end", n)
        for n in range(REQUESTS):  # redelivered, until each has run once
            await self.step("deliver", n)
            await self.step("accept", n)
            await self.step("end", n)
        last = asked(None, "last", conversation=CONVERSATION)
        (sent,) = await request_with_context(last, replace(ports(self.store, self.log), parent_wait_s=0))
        assert isinstance(sent.record, Requested), "a lock outlived its response"
        assert [message.text for message in sent.record.context] == self.said
        await self.store.record(self.public)
        page = await self.store.items(TENANT, CONVERSATION, limit=100, order="asc")
        assert isinstance(page, ItemPage)
        assert [item.message.text for item in page.items] == self.said


async def explored(steps: list[Step], old: bool) -> World:
    world = World(old)
    await world.begin()
    for what, n in steps:
        await world.step(what, n)
    await world.finish()
    return world


@given(STEPS, st.booleans())
def test_one_at_a_time_behind_all_that_was_said_and_no_lock_left(steps: list[Step], old: bool) -> None:
    asyncio.run(explored(steps, old))


def test_the_steps_reach_what_they_are_for() -> None:
    """Two turns, an end that is not recorded, a redelivery of what ended, and a refusal."""
    steps = [("deliver", 0), ("accept", 0), ("end", 0), ("crash", 1), ("deliver", 0), ("deliver", 1), ("refuse", 1)]
    world = asyncio.run(explored([*steps, ("deliver", 2), ("accept", 2), ("deliver", 1)], True))
    assert len(world.said) == 4
    assert world.over == {request.request.response_id for request in world.requests}
