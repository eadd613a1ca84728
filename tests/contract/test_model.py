"""SQLite held against the definition: whatever is asked of both, in any order, both answer and hold the same."""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from services.history.stores.port import Conversation, Holder, Recordable, Store
from services.history.stores.sqlite import SqliteStore
from shared.records import Cancelled, Deleted, Failed, Item, Screening, Usage
from tests.contract.support import OTHER, RETENTION
from tests.unit.history.fakes import FAR_MS, NOW_MS, TENANT, accepted, an_id, completed
from tests.unit.history.memory import MemoryStore

T = TypeVar("T")

# Few of everything, so that what is asked meets what was asked before.
TENANTS = [TENANT, OTHER]
CONVERSATIONS = ["conv_a", "conv_b"]
RESPONSES = [an_id() for _ in range(4)]
# A response runs in one conversation, if in any, so what it brings stands nowhere else.
HOMES = dict(zip(RESPONSES, CONVERSATIONS * 2, strict=True))
GIVEN_IDS = ["msg_a", "msg_b", "msg_c"]
USAGE = Usage(input_tokens=1, output_tokens=1)

# The most likely case first: hypothesis shrinks towards it.
tenants = st.sampled_from([TENANT, TENANT, TENANT, OTHER])
conversations = st.sampled_from(CONVERSATIONS)
responses = st.sampled_from(RESPONSES)
epochs = st.sampled_from([0, 0, 0, 1, 2])
texts = st.sampled_from(["", "a", "gęślą 🐝\0", "long " * 50])
orders: st.SearchStrategy[Literal["asc", "desc"]] = st.sampled_from(["asc", "desc"])


@st.composite
def items(draw: st.DrawFn, conversation: str) -> Item:
    at_home = [response for response, home in HOMES.items() if home == conversation]
    bringer = draw(st.sampled_from([None, None, *at_home]))
    return Item(id=draw(st.sampled_from(GIVEN_IDS)), role="user", parts=[draw(texts)], response_id=bringer)


@st.composite
def beginnings(draw: st.DrawFn) -> Recordable:
    response_id = draw(responses)
    return accepted(
        response_id,
        epoch=draw(epochs),
        tenant=draw(tenants),
        text=draw(texts),
        conversation=draw(st.sampled_from([*[HOMES[response_id]] * 4, None, "conv_unknown"])),
        previous_response_id=draw(st.sampled_from([None, *RESPONSES])),
        store=draw(st.sampled_from([True, True, False])),
    )


@st.composite
def ends(draw: st.DrawFn) -> Recordable:
    response_id, epoch, tenant = draw(responses), draw(epochs), draw(tenants)
    base: dict[str, Any] = {"response_id": response_id, "epoch": epoch, "tenant": tenant, "text": draw(texts)}
    base |= {"usage": USAGE, "finished_ms": NOW_MS + draw(st.integers(0, 3))}
    kind = draw(st.sampled_from(["completed", "completed", "failed", "cancelled"]))
    if kind == "failed":
        return Failed(code="server_error", message="m", **base)
    return (
        Cancelled(**base) if kind == "cancelled" else completed(response_id, base["text"], epoch=epoch, tenant=tenant)
    )


others = st.one_of(
    st.builds(Screening, response_id=responses, epoch=epochs, owner=st.just("o")),
    st.builds(Deleted, response_id=responses, tenant=tenants),
)
batches = st.lists(st.one_of(beginnings(), ends(), ends(), others), min_size=1, max_size=6)


class Twins(RuleBasedStateMachine):
    """The same calls to both stores; another replica of SQLite may take over at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.memory = MemoryStore(RETENTION, lambda: NOW_MS)
        self.sqlite = self._opened()

    def teardown(self) -> None:
        self.runner.run(self.sqlite.close())
        self.runner.close()
        self.folder.cleanup()

    def _opened(self) -> SqliteStore:
        store = SqliteStore(Path(self.folder.name) / "h.sqlite3", retention=RETENTION, clock_ms=lambda: NOW_MS)
        self.runner.run(store.open())
        return store

    def both(self, ask: Callable[[Store], Awaitable[T]]) -> T:
        async def asked() -> tuple[T, T]:
            return await ask(self.memory), await ask(self.sqlite)

        expected, found = self.runner.run(asked())
        assert found == expected
        return expected

    @rule(batch=batches)
    def record(self, batch: list[Recordable]) -> None:
        self.both(lambda store: store.record(batch))

    @rule(response=responses, kept=st.booleans(), answer=texts)
    def turn(self, response: str, kept: bool, answer: str) -> None:
        conversation = HOMES[response]
        records = [accepted(response, conversation=conversation, store=kept), completed(response, answer)]
        self.both(lambda store: store.lock(TENANT, conversation, Holder(response, FAR_MS)))
        self.both(lambda store: store.record(records))

    @rule(data=st.data(), tenant=tenants, conversation=conversations, value=texts)
    def create(self, data: st.DataObject, tenant: str, conversation: str, value: str) -> None:
        given = data.draw(st.lists(items(conversation), max_size=3))
        begun = Conversation(conversation, tenant, NOW_MS, {"k": value})
        self.both(lambda store: store.create_conversation(begun, given))

    @rule(tenant=tenants, conversation=conversations, value=texts)
    def set_metadata(self, tenant: str, conversation: str, value: str) -> None:
        self.both(lambda store: store.set_metadata(tenant, conversation, {"v": value}))

    @rule(tenant=tenants, conversation=conversations, response=responses, deadline_ms=st.integers(0, 3))
    def lock(self, tenant: str, conversation: str, response: str, deadline_ms: int) -> None:
        self.both(lambda store: store.lock(tenant, conversation, Holder(response, deadline_ms)))

    @rule(tenant=tenants, conversation=conversations, response=responses)
    def release(self, tenant: str, conversation: str, response: str) -> None:
        self.both(lambda store: store.release(tenant, conversation, response))

    @rule(data=st.data(), tenant=tenants, conversation=conversations)
    def add_items(self, data: st.DataObject, tenant: str, conversation: str) -> None:
        given = data.draw(st.lists(items(conversation), max_size=4))
        self.both(lambda store: store.add_items(tenant, conversation, given))

    @rule(
        data=st.data(),
        conversation=conversations,
        limit=st.integers(1, 4),
        order=orders,
        max_bytes=st.none() | st.integers(1, 600),
    )
    def page(
        self, data: st.DataObject, conversation: str, limit: int, order: Literal["asc", "desc"], max_bytes: int | None
    ) -> None:
        after = data.draw(st.none() | st.sampled_from(self._item_ids(conversation)))
        self.both(
            lambda store: store.items(TENANT, conversation, limit=limit, order=order, after=after, max_bytes=max_bytes)
        )

    @rule(data=st.data(), tenant=tenants, conversation=conversations)
    def erase_item(self, data: st.DataObject, tenant: str, conversation: str) -> None:
        item_id = data.draw(st.sampled_from(self._item_ids(conversation)))
        self.both(lambda store: store.item(tenant, conversation, item_id))
        self.both(lambda store: store.erase_item(tenant, conversation, item_id))

    @rule(tenant=tenants, conversation=conversations)
    def erase_conversation(self, tenant: str, conversation: str) -> None:
        self.both(lambda store: store.erase_conversation(tenant, conversation))

    @rule(
        passed_ms=st.sampled_from(
            [RETENTION.response_ms, FAR_MS - NOW_MS + (RETENTION.response_ms or 0), RETENTION.tombstone_ms]
        )
    )
    def expire(self, passed_ms: int) -> None:
        # The stores' clock stands, so what comes after is as if the same time passed again.
        self.both(lambda store: store.forget_expired(NOW_MS + passed_ms, 1_000))

    @rule()
    def another_replica(self) -> None:
        self.runner.run(self.sqlite.close())
        self.sqlite = self._opened()

    @invariant()
    def both_hold_the_same(self) -> None:
        self.both(_all_that_can_be_read)

    def _item_ids(self, conversation: str) -> list[str]:
        """Ids that the conversation has, and some that it had or never has."""
        page = self.runner.run(self.memory.items(TENANT, conversation, limit=100, order="asc"))
        return [*GIVEN_IDS, *(item.id for item in getattr(page, "items", []))]


async def _all_that_can_be_read(store: Store) -> list[object]:
    found: list[object] = []
    for tenant in TENANTS:
        for conversation in CONVERSATIONS:
            found.append(await store.conversation(tenant, conversation))
            found.append(await store.items(tenant, conversation, limit=100, order="asc"))
        for response in RESPONSES:
            found.append(await store.chain(tenant, response, 3))
    return found


def test_sqlite_does_what_the_definition_does() -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Twins,
        settings=settings(
            max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
