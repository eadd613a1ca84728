"""The worker's life before it has a model: it can be asked how it stands, and it ends by one clear error."""

import asyncio
import threading

import httpx
import pytest

from services.inference import app
from services.inference.settings import InferenceSettings
from shared.chat import ChatTokenizer
from shared.chat.errors import ModelNotFoundError
from shared.lifetime import Stop

TIMEOUT_S = 10.0
MISSING = "CHATMESH_MODEL=no-such-model: there is no such file"


async def test_a_worker_that_loads_can_be_asked_how_it_stands(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    loading, go_on = threading.Event(), threading.Event()

    def load(model: str) -> ChatTokenizer:
        loading.set()
        go_on.wait(TIMEOUT_S)
        raise ModelNotFoundError(MISSING)

    monkeypatch.setattr(app, "load_chat_tokenizer", load)
    serving = asyncio.create_task(app.serve(InferenceSettings(management_port=0), Stop()))
    try:
        assert await asyncio.to_thread(loading.wait, TIMEOUT_S), "the event loop turns while the model loads"
        (line,) = [record.message for record in caplog.records if "management endpoint" in record.message]
        async with httpx.AsyncClient(base_url=line.rpartition(" ")[2], timeout=TIMEOUT_S) as client:
            assert (await client.get("/healthz")).status_code == 200
            answer = await client.get("/readyz")
            assert "chatmesh_service_state" in (await client.get("/metrics")).text
    finally:
        go_on.set()
    with pytest.raises(ModelNotFoundError, match="there is no such file"):
        await serving
    assert answer.status_code == 503
    assert (answer.json()["state"], answer.json()["detail"]) == ("starting", "loading the tokenizer")
