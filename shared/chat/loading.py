"""From a model's files to a ChatTokenizer."""

import hashlib
import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from shared.chat.bpe import build_bpe
from shared.chat.errors import UnsupportedTokenizerError
from shared.chat.gguf import read_gguf_metadata
from shared.chat.sources import ModelSource, locate_model
from shared.chat.template import ChatTemplate
from shared.chat.tokenizer import ChatTokenizer

_IDENTITY_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
_WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")
_GGUF_SPECIAL_TOKENS = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
}
_GGUF_END_KEYS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")


def load_chat_tokenizer(model: str = "") -> ChatTokenizer:
    """The tokenizer and chat template of `model` (see shared.chat.sources), without loading any weights.

    Raises ModelNotFoundError and UnsupportedTokenizerError.
    """
    source = locate_model(model)
    return _from_gguf(source) if source.is_gguf else _from_folder(source)


def _from_gguf(source: ModelSource) -> ChatTokenizer:
    metadata = read_gguf_metadata(source.path)
    tokens = metadata.texts("tokenizer.ggml.tokens")
    architecture = metadata.text("general.architecture")
    window = metadata.integer(f"{architecture}.context_length")
    if not window:
        raise UnsupportedTokenizerError(f"{source.path} does not say how long a context its model takes")
    special = {
        name: tokens[index]
        for name, key in _GGUF_SPECIAL_TOKENS.items()
        if (index := metadata.integer(key)) is not None and index < len(tokens)
    }
    ends = (metadata.integer(key) for key in _GGUF_END_KEYS)
    return ChatTokenizer(
        model_id=source.model_id,
        revision=metadata.digest,
        context_window=window,
        eos_ids=_eos_ids(source, {index for index in ends if index is not None}),
        template=_template(source, metadata.text("tokenizer.chat_template"), special),
        backend=build_bpe(metadata),
    )


def _from_folder(source: ModelSource) -> ChatTokenizer:
    backend = _backend(source.path / "tokenizer.json")
    config = _json(source.path / "config.json")
    tokenizer_config = _json(source.path / "tokenizer_config.json")
    special = _special_tokens(tokenizer_config, _json(source.path / "special_tokens_map.json"))
    return ChatTokenizer(
        model_id=source.model_id,
        revision=source.hub_commit or _folder_digest(source.path),
        context_window=_context_window(source, config),
        eos_ids=_eos_ids(source, _folder_ends(source.path, config, special, backend)),
        template=_template(source, _template_source(source.path, tokenizer_config), special),
        backend=backend,
    )


def _backend(path: Path) -> Tokenizer:
    if not path.is_file():
        raise UnsupportedTokenizerError(
            f"{path} is missing: only models with a `tokenizer.json` are supported; save one with "
            "`AutoTokenizer.from_pretrained(…).save_pretrained(…)`"
        )
    try:
        backend = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust library raises bare Exception for any fault in the file
        raise UnsupportedTokenizerError(f"{path} cannot be read: {error}") from error
    # Left in the file by whoever used it last. A prompt is as long as it is.
    backend.no_truncation()
    backend.no_padding()
    return backend


def _json(path: Path) -> dict[str, Any]:
    """The object in the file; {} if there is no such file, for every one of them is optional somewhere."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnsupportedTokenizerError(f"{path} is no valid JSON: {error}") from error
    return content if isinstance(content, dict) else {}


def _special_tokens(*configs: dict[str, Any]) -> dict[str, str]:
    """`{"eos_token": "</s>", …}`; a token is written as its text or as an object with `content`."""
    found: dict[str, str] = {}
    for config in configs:
        for name in _GGUF_SPECIAL_TOKENS:
            token = config.get(name)
            content = token.get("content") if isinstance(token, dict) else token
            if isinstance(content, str):
                found.setdefault(name, content)
    return found


def _context_window(source: ModelSource, config: dict[str, Any]) -> int:
    for part in (config, config.get("text_config", {})):
        for key in ("max_position_embeddings", "n_positions", "max_sequence_length"):
            if isinstance(window := part.get(key), int) and window > 0:
                return window
    raise UnsupportedTokenizerError(f"{source.path / 'config.json'} does not say `max_position_embeddings`")


def _folder_ends(path: Path, config: dict[str, Any], special: dict[str, str], backend: Tokenizer) -> set[int]:
    """The ids that end a turn: the first file that names any wins, as in transformers; the tokenizer's own is added."""
    ends: set[int] = set()
    for named in (_json(path / "generation_config.json").get("eos_token_id"), config.get("eos_token_id")):
        if named is not None and not ends:
            ends = {int(index) for index in (named if isinstance(named, list) else [named])}
    own = backend.token_to_id(special["eos_token"]) if "eos_token" in special else None
    return ends if own is None else ends | {own}


def _eos_ids(source: ModelSource, ends: set[int]) -> frozenset[int]:
    if not ends:
        raise UnsupportedTokenizerError(f"{source.path} names no end-of-turn token, so no answer would ever end")
    return frozenset(ends)


def _template_source(path: Path, tokenizer_config: dict[str, Any]) -> str | None:
    file = path / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = tokenizer_config.get("chat_template")
    if isinstance(template, list):  # several named templates: [{"name": "default", "template": "…"}, …]
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return template if isinstance(template, str) else None


def _template(source: ModelSource, template: str | None, special: dict[str, str]) -> ChatTemplate:
    if template is None:
        raise UnsupportedTokenizerError(
            f"{source.model_id} has no chat template: it was not trained for conversations; choose an instruct model"
        )
    return ChatTemplate(template, special)


def _folder_digest(path: Path) -> str:
    """SHA-256 over the small files' bytes and the weights' names and sizes."""
    digest = hashlib.sha256()
    for file in (path / name for name in _IDENTITY_FILES):
        if file.is_file():
            digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    for file in sorted(file for pattern in _WEIGHTS for file in path.glob(pattern)):
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
    return digest.hexdigest()
