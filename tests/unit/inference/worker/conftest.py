from collections.abc import AsyncIterator

import pytest

from shared.chat import ChatTokenizer, load_chat_tokenizer
from tests.unit.inference.worker.bench import WorkerBench


@pytest.fixture(scope="session")
def tokenizer() -> ChatTokenizer:
    return load_chat_tokenizer("")


@pytest.fixture
async def bench(tokenizer: ChatTokenizer) -> AsyncIterator[WorkerBench]:
    started = await WorkerBench(tokenizer).start()
    yield started
    await started.stop()
