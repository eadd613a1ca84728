"""Questions about conversations: each answer, what is told of it, and what a second delivery comes to."""

from dataclasses import replace
from typing import Any

import pytest

from services.history.conversations import PAGE_BYTES
from services.history.handlers import HANDLERS
from services.history.ports import Ports
from services.history.queries import erase_response
from services.history.stores.port import Conversation, Holder, ItemPage, item_bytes
from services.history.turns import request_with_context
from shared.control import Outgoing
from shared.records import (
    AddItems,
    ConversationCreated,
    ConversationDeleted,
    ConversationErased,
    ConversationFound,
    ConversationUpdated,
    CountInput,
    CreateConversation,
    Delete,
    Deleted,
    EraseConversation,
    EraseItem,
    EraseResponse,
    GetConversation,
    GetItem,
    InputCounted,
    Item,
    ItemsFound,
    ListItems,
    Rejected,
    ReleaseConversation,
    Requested,
    ResponseErased,
    UpdateConversation,
)
from shared.records.codec import encode_value
from shared.topics import CONVERSATIONS, JOURNAL, REPLIES, Service, assert_may_produce
from shared.turns import turn_items
from tests.unit.history.fakes import (
    FAR_MS,
    NOW_MS,
    REPLY_TO,
    TENANT,
    MemoryLog,
    MemoryStore,
    accepted,
    an_id,
    asked,
    ports,
    spec,
    turn,
)

CONVERSATION = "conv_1"
ITEMS = [Item(id="msg_1", role="user", parts=["one"]), Item(id="msg_2", role="assistant", parts=["1"])]
MORE = [Item(id="msg_3", role="user", parts=["two"])]


@pytest.fixture
async def made() -> Ports:
    """Ports over a store with one conversation of two items."""
    memory = MemoryStore()
    await memory.create_conversation(Conversation(CONVERSATION, TENANT, NOW_MS, {"k": "v"}), ITEMS)
    return ports(memory, MemoryLog())


def query(kind: Any, tenant: str = TENANT, conversation_id: str = CONVERSATION, **fields: Any) -> Any:
    return kind(correlation_id="q_1", reply_to=REPLY_TO, tenant=tenant, conversation_id=conversation_id, **fields)


async def ask(asked_for: Any, made: Ports) -> tuple[list[Any], Any]:
    """What was told, and the answer, after checking that history may say it and where it went."""
    outgoing: list[Outgoing] = await HANDLERS[type(asked_for)](asked_for, made)
    for each in outgoing:
        assert_may_produce(each.topic, Service.HISTORY, each.record)
    *told, answer = outgoing
    assert (answer.topic, answer.partition) == (REPLIES, REPLY_TO.partition)
    assert isinstance(answer.record, Rejected | ConversationFound | ConversationErased | ItemsFound | ResponseErased)
    assert (answer.record.gateway, answer.record.correlation_id) == (REPLY_TO.gateway, "q_1")
    assert all(each.topic is (JOURNAL if isinstance(each.record, Delete) else CONVERSATIONS) for each in told)
    return [each.record for each in told], answer.record


async def a_turn(made: Ports, text: str = "two", answer: str = "2", **changes: Any) -> tuple[str, list[Item]]:
    """A response that ended in the conversation, and the items that it brought."""
    response_id = an_id()
    begun, over = turn(response_id, text, answer, conversation=CONVERSATION, **changes)
    await made.store.record([begun, over])
    return response_id, turn_items(begun, over)


async def ids(made: Ports) -> list[str]:
    page = await made.store.items(TENANT, CONVERSATION, limit=1_000, order="asc")
    assert isinstance(page, ItemPage)
    return [item.id for item in page.items]


def found(**changes: Any) -> ConversationFound:
    fields = {"conversation_id": CONVERSATION, "created_ms": NOW_MS, "metadata": {"k": "v"}} | changes
    return ConversationFound(gateway=REPLY_TO.gateway, correlation_id="q_1", **fields)


def changed(change: Any, item_ids: list[str], operation: str = "q_1") -> ConversationUpdated:
    return ConversationUpdated(
        conversation_id=CONVERSATION, tenant=TENANT, change=change, operation=operation, item_ids=item_ids
    )


async def test_a_conversation_begins_with_its_items(made: Ports) -> None:
    begin = query(CreateConversation, conversation_id="conv_2", created_ms=7, metadata={"a": "b"}, items=MORE)
    told, answer = await ask(begin, made)
    assert told == [ConversationCreated(conversation_id="conv_2", tenant=TENANT, created_ms=7, item_ids=["msg_3"])]
    assert answer == found(conversation_id="conv_2", created_ms=7, metadata={"a": "b"})
    assert await ask(begin, made) == (told, answer)
    page = await made.store.items(TENANT, "conv_2", limit=9, order="asc")
    assert isinstance(page, ItemPage) and page.items == MORE


async def test_a_conversation_that_is_there_is_not_told_of_as_new(made: Ports) -> None:
    told, answer = await ask(query(CreateConversation, created_ms=NOW_MS + 1, metadata={"x": "y"}), made)
    assert (told, answer) == ([], found())


async def test_nobody_begins_anothers_or_a_deleted_conversation(made: Ports) -> None:
    told, answer = await ask(query(CreateConversation, "other", created_ms=7), made)
    assert (told, answer.code) == ([], "conversation_not_found")
    await ask(query(EraseConversation), made)
    told, answer = await ask(query(CreateConversation, created_ms=NOW_MS), made)
    assert (told, answer.code) == ([], "conversation_not_found")


async def test_a_conversation_is_shown_as_it_stands_and_its_metadata_replaced(made: Ports) -> None:
    assert await ask(query(GetConversation), made) == ([], found())
    told, answer = await ask(query(UpdateConversation, metadata={"n": "m"}), made)
    assert answer == found(metadata={"n": "m"})
    (updated,) = told
    assert (updated.change, updated.operation, updated.item_ids) == ("metadata", "q_1", [])
    assert await ask(query(UpdateConversation, metadata={"n": "m"}), made) == (told, answer)
    assert await ask(query(GetConversation), made) == ([], answer)


async def test_items_are_added_once_however_often_they_are_sent(made: Ports) -> None:
    for _ in range(2):
        told, answer = await ask(query(AddItems, items=MORE), made)
        assert told == [changed("items_added", ["msg_3"])]
        assert answer == ItemsFound(gateway=REPLY_TO.gateway, correlation_id="q_1", items=MORE)
    assert await ids(made) == ["msg_1", "msg_2", "msg_3"]


async def test_while_a_response_runs_nothing_is_added(made: Ports) -> None:
    response_id = an_id()
    made.log.records[response_id] = [accepted(response_id, conversation=CONVERSATION)]  # type: ignore[attr-defined]
    await made.store.lock(TENANT, CONVERSATION, Holder(response_id, FAR_MS))
    told, answer = await ask(query(AddItems, items=MORE), made)
    assert (told, answer.status, answer.code, answer.param) == ([], 400, "conversation_locked", "conversation")
    assert await ids(made) == ["msg_1", "msg_2"]


async def test_a_response_that_has_ended_comes_before_what_is_added(made: Ports) -> None:
    response_id = an_id()
    records = turn(response_id, "two", "2", conversation=CONVERSATION)
    made.log.records[response_id] = records  # type: ignore[attr-defined]
    await made.store.lock(TENANT, CONVERSATION, Holder(response_id, FAR_MS))
    told, _ = await ask(query(AddItems, items=MORE), made)
    assert told == [changed("items_added", ["msg_3"])]
    brought = [item.id for item in turn_items(*records)]
    assert await ids(made) == ["msg_1", "msg_2", *brought, "msg_3"]


async def test_pages_in_both_orders(made: Ports) -> None:
    await ask(query(AddItems, items=MORE), made)
    _, answer = await ask(query(ListItems, limit=2, order="asc"), made)
    assert ([item.id for item in answer.items], answer.has_more) == (["msg_1", "msg_2"], True)
    _, answer = await ask(query(ListItems, limit=2, order="desc", after="msg_3"), made)
    assert ([item.id for item in answer.items], answer.has_more) == (["msg_2", "msg_1"], False)
    _, answer = await ask(query(ListItems, limit=2, order="desc", after="msg_9"), made)
    assert (answer.status, answer.code) == (404, "item_not_found")


async def test_a_page_fits_into_a_record(made: Ports) -> None:
    """Control characters are the longest on the wire: six bytes each."""
    size = 100_000
    long = [Item(id=f"msg_{n}", role="user", parts=["\x01" * size]) for n in range(10, 30)]
    for item in long:
        await made.store.add_items(TENANT, CONVERSATION, [item])
    _, answer = await ask(query(ListItems, limit=100, order="desc"), made)
    assert answer.has_more
    assert len(answer.items) == PAGE_BYTES // item_bytes(long[0]) > 1
    assert len(encode_value(answer)) < REPLIES.max_message_bytes


async def test_one_item(made: Ports) -> None:
    _, answer = await ask(query(GetItem, item_id="msg_2"), made)
    assert answer.items == [ITEMS[1]]
    _, answer = await ask(query(GetItem, item_id="msg_9"), made)
    assert (answer.status, answer.code, answer.message) == (404, "item_not_found", "Item with id 'msg_9' not found.")


EVERY = [
    query(GetConversation),
    query(UpdateConversation, metadata={}),
    query(EraseConversation),
    query(AddItems, items=MORE),
    query(ListItems, limit=1, order="asc"),
    query(GetItem, item_id="msg_1"),
    query(EraseItem, item_id="msg_1"),
]


@pytest.mark.parametrize("each", EVERY, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("tenant", ["other", TENANT])
async def test_what_is_not_there_is_404_and_nothing_is_told(each: Any, tenant: str, made: Ports) -> None:
    fields = {name: getattr(each, name) for name in each.__struct_fields__}
    missing = type(each)(**fields | {"tenant": tenant, "conversation_id": CONVERSATION if tenant == "other" else "c"})
    told, answer = await ask(missing, made)
    assert isinstance(answer, Rejected)
    assert (told, answer.status, answer.code, answer.error_type) == (
        [],
        404,
        "conversation_not_found",
        "invalid_request_error",
    )
    assert answer.message == f"Conversation with id '{missing.conversation_id}' not found."
    assert await ids(made) == ["msg_1", "msg_2"]


# -- forgetting --------------------------------------------------------------------------------------------------------


async def test_an_item_is_forgotten_with_the_response_that_brought_it(made: Ports) -> None:
    response_id, (question, answer_item) = await a_turn(made)
    erase = query(EraseItem, item_id=question.id)
    for _ in range(2):
        told, answer = await ask(erase, made)
        assert told == [
            changed("item_deleted", [question.id]),
            Delete(response_id=response_id, tenant=TENANT),
        ]
        assert answer == found()
    assert await made.store.get(TENANT, response_id) is None
    await made.store.record([Deleted(response_id=response_id, tenant=TENANT)])  # as the log says it, later
    assert await ids(made) == ["msg_1", "msg_2", answer_item.id]


async def test_an_item_that_no_response_brought_is_forgotten_alone(made: Ports) -> None:
    told, answer = await ask(query(EraseItem, item_id="msg_1"), made)
    assert (told, answer) == ([changed("item_deleted", ["msg_1"])], found())
    _, answer = await ask(query(EraseItem, item_id="msg_9"), made)
    assert (answer.status, answer.code) == (404, "item_not_found")


async def test_a_conversation_is_forgotten_with_all_that_ran_in_it(made: Ports) -> None:
    ran = [(await a_turn(made))[0] for _ in range(2)]
    for _ in range(2):
        told, answer = await ask(query(EraseConversation), made)
        assert {each.response_id for each in told if isinstance(each, Delete)} == set(ran)
        assert told[-1] == ConversationDeleted(conversation_id=CONVERSATION, tenant=TENANT)
        assert isinstance(answer, ConversationErased)
    assert [await made.store.get(TENANT, response_id) for response_id in ran] == [None, None]
    _, answer = await ask(query(GetConversation), made)
    assert answer.code == "conversation_not_found"


async def test_a_response_is_forgotten_with_its_items(made: Ports) -> None:
    response_id, brought = await a_turn(made)
    erase = EraseResponse(correlation_id="q_1", reply_to=REPLY_TO, tenant=TENANT, response_id=response_id)
    for _ in range(2):
        told, answer = await ask(erase, made)
        assert told == [changed("item_deleted", [item.id for item in brought], response_id)]
        assert isinstance(answer, ResponseErased)
    assert await ids(made) == ["msg_1", "msg_2"]


async def test_what_no_conversation_knows_is_forgotten_in_silence(made: Ports) -> None:
    (answer,) = await erase_response(
        EraseResponse(correlation_id="q_1", reply_to=REPLY_TO, tenant=TENANT, response_id=an_id()), made
    )
    assert isinstance(answer.record, ResponseErased)


# -- the lock, and counting --------------------------------------------------------------------------------------------


async def test_a_request_that_became_nothing_gives_the_conversation_back(made: Ports) -> None:
    response_id = an_id()
    await made.store.lock(TENANT, CONVERSATION, Holder(response_id, FAR_MS))
    for who in (an_id(), response_id):
        release = ReleaseConversation(conversation_id=CONVERSATION, response_id=who, tenant=TENANT)
        assert await HANDLERS[ReleaseConversation](release, made) == []
        conversation = await made.store.conversation(TENANT, CONVERSATION)
        assert conversation is not None
        assert (conversation.holder is None) == (who == response_id)


async def test_a_prompt_is_counted_as_a_request_would_be_without_taking_the_lock(made: Ports) -> None:
    response_id = an_id()
    await made.store.lock(TENANT, CONVERSATION, Holder(response_id, FAR_MS))
    count = CountInput(
        correlation_id="q_1",
        reply_to=REPLY_TO,
        tenant=TENANT,
        spec=spec("and then?", conversation=CONVERSATION),
        deadline_ms=FAR_MS,
    )
    (counted,) = await HANDLERS[CountInput](count, made)
    assert isinstance(counted.record, InputCounted)
    await made.store.release(TENANT, CONVERSATION, response_id)
    (requested,) = await request_with_context(asked(None, conversation=CONVERSATION), made)
    assert isinstance(requested.record, Requested)
    assert counted.record.input_tokens == requested.record.input_tokens == 2 + 2 + 3


async def test_a_turn_that_ended_is_counted_although_the_recorder_is_behind(made: Ports) -> None:
    response_id = an_id()
    await made.store.lock(TENANT, CONVERSATION, Holder(response_id, FAR_MS))
    ended = list(turn(response_id, "two", "2", conversation=CONVERSATION))
    behind = replace(made, log=MemoryLog({response_id: ended}))
    count = CountInput(
        correlation_id="q_1",
        reply_to=REPLY_TO,
        tenant=TENANT,
        spec=spec("and then?", conversation=CONVERSATION),
        deadline_ms=FAR_MS,
    )
    (before,) = await HANDLERS[CountInput](count, made)
    (after,) = await HANDLERS[CountInput](count, behind)
    assert isinstance(before.record, InputCounted)
    assert isinstance(after.record, InputCounted)
    assert after.record.input_tokens > before.record.input_tokens


async def test_no_more_of_a_long_conversation_is_read_than_the_window_holds(made: Ports) -> None:
    for n in range(3, 40):
        await made.store.add_items(TENANT, CONVERSATION, [Item(id=f"msg_{n}", role="user", parts=[f"{n}"])])
    asked_for: list[Any] = []

    class Watching(MemoryStore):
        async def items(self, *args: Any, **options: Any) -> Any:
            asked_for.append(options)
            return await made.store.items(*args, **options)

        async def lock(self, tenant: str, conversation_id: str, holder: Holder) -> Any:
            return await made.store.lock(tenant, conversation_id, holder)

    small = replace(ports(MemoryStore(), MemoryLog(), window=20), store=Watching())
    (sent,) = await request_with_context(asked(None, conversation=CONVERSATION, truncation="auto"), small)
    assert isinstance(sent.record, Requested)
    assert [m.text for m in sent.record.context] == [str(n) for n in range(40 - len(sent.record.context), 40)]
    (options,) = asked_for
    assert (options["limit"], options["order"]) == (20, "desc")
    assert options["max_bytes"] > 0
