"""What a store gives out goes into records, which know plain types only: not a driver's own kinds of number."""

import msgspec

from services.history.stores.port import Store
from tests.contract.support import begin, holder
from tests.unit.history.fakes import TENANT


async def test_what_is_told_of_a_conversation_can_be_written_into_a_record(store: Store) -> None:
    conversation_id = await begin(store, color="blue")
    await store.lock(TENANT, conversation_id, holder())
    found = await store.conversation(TENANT, conversation_id)
    assert found is not None and found.holder is not None
    assert [type(found.created_ms), type(found.holder.deadline_ms)] == [int, int]
    assert msgspec.json.encode([found.created_ms, found.metadata, found.holder.deadline_ms])
