"""The default model's tokenizer, loaded once: ours, and the one that transformers builds from the same file."""

from typing import Any

import pytest

from shared.chat import ChatTokenizer, load_chat_tokenizer, locate_model


@pytest.fixture(scope="session")
def tokenizer() -> ChatTokenizer:
    return load_chat_tokenizer("")


@pytest.fixture(scope="session")
def reference() -> Any:
    transformers = pytest.importorskip("transformers")
    path = locate_model("").path
    return transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
