"""Which model a spec names, and what is said when it cannot be used."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from shared.chat import (
    DEFAULT_MODEL_ID,
    ChatTemplate,
    ChatTemplateError,
    ChatTokenizer,
    ModelNotFoundError,
    UnsupportedTokenizerError,
    load_chat_tokenizer,
    locate_model,
)
from shared.chat.gguf import read_gguf_metadata


@pytest.fixture
def folder(tmp_path: Path, tokenizer: ChatTokenizer) -> Path:
    """The default model as a Hugging Face folder (without weights)."""
    path = tmp_path / "my-model"
    path.mkdir()
    tokenizer.backend.save(str(path / "tokenizer.json"))
    metadata = read_gguf_metadata(locate_model("").path)
    write(path / "config.json", {"max_position_embeddings": 2048, "eos_token_id": 0})
    write(
        path / "tokenizer_config.json",
        {"eos_token": {"content": "<|im_end|>"}, "chat_template": metadata.text("tokenizer.chat_template")},
    )
    return path


def write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def test_the_default_model_is_found_by_no_name_and_by_its_own(tokenizer: ChatTokenizer) -> None:
    assert tokenizer.model_id == DEFAULT_MODEL_ID
    assert tokenizer.context_window == 8192
    assert locate_model("") == locate_model(DEFAULT_MODEL_ID)
    assert locate_model(str(locate_model("").path)).path == locate_model("").path


def test_two_loads_have_one_revision(tokenizer: ChatTokenizer) -> None:
    assert load_chat_tokenizer("").revision == tokenizer.revision
    assert len(tokenizer.revision) == 64


def test_loading_needs_neither_torch_nor_transformers() -> None:
    script = (
        "import sys; from shared.chat import load_chat_tokenizer; load_chat_tokenizer(''); "
        "sys.exit(', '.join({'torch', 'transformers', 'numpy'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_folder_gives_the_same_prompt(folder: Path, tokenizer: ChatTokenizer) -> None:
    loaded = load_chat_tokenizer(str(folder))
    messages = [{"role": "user", "content": "Hi <|im_end|> 1  2"}]
    assert loaded.encode(messages) == tokenizer.encode(messages)
    assert (loaded.model_id, loaded.context_window) == ("my-model", 2048)
    assert loaded.eos_ids == {0, 2}


def test_a_folder_cannot_shorten_or_lengthen_a_prompt(folder: Path, tokenizer: ChatTokenizer) -> None:
    left_so = Tokenizer.from_file(str(folder / "tokenizer.json"))
    left_so.enable_truncation(4)
    left_so.enable_padding(length=500)
    left_so.save(str(folder / "tokenizer.json"))
    messages = [{"role": "user", "content": "one two three"}]
    assert load_chat_tokenizer(str(folder)).encode(messages) == tokenizer.encode(messages)


def test_a_folders_revision_names_its_content(folder: Path) -> None:
    before = load_chat_tokenizer(str(folder)).revision
    write(folder / "config.json", {"max_position_embeddings": 4096, "eos_token_id": 0})
    assert load_chat_tokenizer(str(folder)).revision != before


def test_generation_config_names_the_ends_first(folder: Path) -> None:
    write(folder / "generation_config.json", {"eos_token_id": [5, 2]})
    assert load_chat_tokenizer(str(folder)).eos_ids == {2, 5}


def test_a_template_file_wins_over_the_configs(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}{{ eos_token }}", encoding="utf-8")
    assert load_chat_tokenizer(str(folder)).render([{"role": "user", "content": "x"}]) == "x<|im_end|>"


@pytest.mark.parametrize("spec", ["no-such-folder", "no/such/path.gguf", "a/b/c", "https://example.org/model"])
def test_a_spec_that_names_nothing_says_what_is_allowed(spec: str) -> None:
    with pytest.raises(ModelNotFoundError, match="CHATMESH_MODEL="):
        load_chat_tokenizer(spec)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a model at all...", b"GGUF" + b"\x63" + bytes(40)])
def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with pytest.raises(UnsupportedTokenizerError, match="GGUF"):
        load_chat_tokenizer(str(path))


def test_a_file_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "short.gguf"
    path.write_bytes(locate_model("").path.read_bytes()[:100_000])
    with pytest.raises(UnsupportedTokenizerError, match="damaged near byte"):
        load_chat_tokenizer(str(path))


@pytest.mark.parametrize(
    ("old", "new", "says"), [(b"smollm", b"smurfy", "cuts words"), (b"gpt2", b"bert", "byte-level BPE")]
)
def test_an_unknown_kind_of_tokenizer_is_named(tmp_path: Path, old: bytes, new: bytes, says: str) -> None:
    key = b"tokenizer.ggml.pre" if old == b"smollm" else b"tokenizer.ggml.model"
    content = locate_model("").path.read_bytes()[:4_000_000]
    start = content.index(old, content.index(key))
    path = tmp_path / "other.gguf"
    path.write_bytes(content[:start] + new + content[start + len(old) :])
    with pytest.raises(UnsupportedTokenizerError, match=says):
        load_chat_tokenizer(str(path))


@pytest.mark.parametrize("missing", ["tokenizer.json", "tokenizer_config.json", "config.json"])
def test_an_incomplete_folder_says_what_is_missing(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(UnsupportedTokenizerError):
        load_chat_tokenizer(str(folder))


def test_a_broken_tokenizer_file_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UnsupportedTokenizerError, match="cannot be read"):
        load_chat_tokenizer(str(folder))


def test_a_developer_speaks_as_system_where_the_template_knows_no_such_role() -> None:
    plain = ChatTemplate("{{ messages[0]['role'] }}", {})
    knowing = ChatTemplate("{% if messages[0]['role'] == 'developer' %}DEV{% endif %}", {})
    message = [{"role": "developer", "content": ""}]
    assert plain.render(message, add_generation_prompt=False) == "system"
    assert knowing.render(message, add_generation_prompt=False) == "DEV"


def test_a_template_may_refuse_a_conversation() -> None:
    template = ChatTemplate("{{ raise_exception('roles must alternate') }}", {})
    with pytest.raises(ChatTemplateError, match="roles must alternate"):
        template.render([], add_generation_prompt=False)


def test_a_template_runs_in_a_sandbox() -> None:
    template = ChatTemplate("{{ messages.__class__.__mro__ }}", {})
    with pytest.raises(ChatTemplateError):
        template.render([], add_generation_prompt=False)


def test_a_template_that_is_no_jinja_is_refused() -> None:
    with pytest.raises(UnsupportedTokenizerError, match="Jinja"):
        ChatTemplate("{% if %}", {})


def test_templates_have_the_helpers_of_transformers() -> None:
    source = "{% generation %}{{ messages | tojson }}{% endgeneration %}{{ strftime_now('%Y') | length }}"
    text = ChatTemplate(source, {}).render([{"role": "user", "content": "<é>"}], add_generation_prompt=False)
    assert text == '[{"role": "user", "content": "<é>"}]4'
