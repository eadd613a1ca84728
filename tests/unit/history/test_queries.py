"""`history.queries`: the stored response, or 404."""

import pytest

from services.history.errors import StoreUnavailableError
from services.history.queries import get_response
from shared.errors import BrokerUnavailableError
from shared.records import GetResponse, Rejected, ResponseFound
from shared.topics import REPLIES
from tests.unit.history.fakes import REPLY_TO, MemoryLog, MemoryStore, accepted, an_id, ports, turn


def query(response_id: str, tenant: str = "acme") -> GetResponse:
    return GetResponse(correlation_id="q_1", reply_to=REPLY_TO, tenant=tenant, response_id=response_id)


@pytest.mark.parametrize("where", ["store", "log"])
async def test_an_ended_response_is_found(where: str) -> None:
    memory, log, response_id = MemoryStore(), MemoryLog(), an_id()
    first, last = turn(response_id, "q", "a")
    if where == "store":
        await memory.record([first, last])
    else:
        log.records = {response_id: [first, last]}
    (sent,) = await get_response(query(response_id), ports(memory, log))
    assert (sent.topic, sent.partition) == (REPLIES, REPLY_TO.partition)
    assert sent.record == ResponseFound(gateway=REPLY_TO.gateway, correlation_id="q_1", accepted=first, terminal=last)


@pytest.mark.parametrize("case", ["unknown", "running", "foreign", "garbage"])
async def test_anything_else_is_404(case: str) -> None:
    memory, log, response_id = MemoryStore(), MemoryLog(), "resp_x" if case == "garbage" else an_id()
    if case == "running":
        log.records = {response_id: [accepted(response_id)]}
    elif case == "foreign":
        await memory.record(turn(response_id, "q", "secret", tenant="other"))
    (sent,) = await get_response(query(response_id), ports(memory, log))
    assert isinstance(sent.record, Rejected)
    assert (sent.record.status, sent.record.correlation_id) == (404, "q_1")
    assert sent.record.message == f"Response with id '{response_id}' not found."


@pytest.mark.parametrize("error", [StoreUnavailableError("locked"), BrokerUnavailableError("away")])
async def test_while_nobody_can_tell_the_asker_hears_so_at_once(error: Exception) -> None:
    log = MemoryLog(failures=[error])
    (sent,) = await get_response(query(an_id()), ports(MemoryStore(), log))
    assert isinstance(sent.record, Rejected)
    assert (sent.record.status, sent.record.error_type) == (503, "server_error")
