"""A model's weights, from its files to the device."""

import contextlib
import logging
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, GgufConfig
from transformers.generation.continuous_batching.cache import group_layers_by_attn_type
from transformers.generation.continuous_batching.cache_allocators import FULL_ATTENTION
from transformers.utils.logging import disable_default_handler, disable_progress_bar, enable_propagation

from services.inference.engines.attention import use_varlen_attention
from services.inference.engines.port import EngineLoadError
from services.inference.engines.weight_cache import CacheEntry, cache_root, entries_of, entry_name
from shared.chat import ModelSource

_log = logging.getLogger(__name__)
_KEPT_PER_MODEL = 2
_UNUSABLE = (OSError, ValueError, RuntimeError, ImportError, KeyError, struct.error, SafetensorError)


def load_weights(source: ModelSource, *, device: str, dtype: str = "bfloat16", cache_dir: str = "") -> Any:
    """The weights of `source`, ready to generate on `device`: a torch device or "auto". As `read_weights` else."""
    model = read_weights(source, dtype=dtype, cache_dir=cache_dir)
    with _told_as_load_error(source):
        return ready_to_generate(model.to(device_type(device)))


def read_weights(source: ModelSource, *, dtype: str = "bfloat16", cache_dir: str = "") -> Any:
    """The weights of `source` in the host's memory; blocks, and needs the network for a Hub model.

    `dtype` is a name of torch's. GGUF blocks are unpacked: on a CPU dense bfloat16 is several times faster than matmuls
    over blocks. The unpacked weights are kept in `cache_dir` (empty: the user's cache folder) and read from there the
    next time. Code that comes with a model is never run.
    Raises EngineLoadError.
    """
    _speak_through_us()
    with _told_as_load_error(source):
        return _load_gguf(source, dtype, cache_dir) if source.is_gguf else _load(dtype=dtype, **_checkpoint(source))


def _speak_through_us() -> None:
    """transformers' warnings become lines of our log, in its format."""
    disable_progress_bar()  # type: ignore[no-untyped-call]
    disable_default_handler()
    enable_propagation()


def ready_to_generate(model: Any) -> Any:
    """The same model, in the state for inference and with the attention that suits the device where it is."""
    if model.device.type == "cpu" and _has_only_full_attention(model.config.get_text_config()):
        use_varlen_attention()
    return model.eval()


@contextlib.contextmanager
def _told_as_load_error(source: ModelSource) -> Iterator[None]:
    try:
        yield
    except _UNUSABLE as error:
        raise EngineLoadError(f"the weights of {source.model_id} cannot be loaded: {error}") from error


def _load_gguf(source: ModelSource, dtype: str, cache_dir: str) -> Any:
    """Unpacked by transformers, which takes it up to 28 s for 135M parameters, or as it did so once, in 0.2 s."""
    entry = _cache_entry(source, dtype, cache_dir)
    model = entry.load(lambda folder: _load_saved(folder, dtype)) if entry is not None else None
    if model is not None:
        return model
    model = _load(
        str(source.path.parent), dtype, gguf_file=source.path.name, quantization_config=GgufConfig(dequantize=True)
    )
    if entry is not None:
        # The names that the model has, not those of its original checkpoint: what is saved is what was loaded.
        entry.store(lambda folder: model.save_pretrained(folder, save_original_format=False))
        _prune(entry, source.model_id)
    return model


def _prune(entry: CacheEntry, model_id: str) -> None:
    """Each new file, dtype and version of transformers leaves 2 bytes a parameter behind: keep what is still used."""
    try:
        entry.prune(entries_of(model_id, entry.root)[_KEPT_PER_MODEL:])
    except OSError as error:
        _log.warning("old weights in %s are not removed: %s", entry.root, error)


def _cache_entry(source: ModelSource, dtype: str, cache_dir: str) -> CacheEntry | None:
    try:
        root = cache_root(cache_dir, os.environ)
    except RuntimeError as error:
        _log.warning("the unpacked weights are not kept, set CHATMESH_CACHE_DIR: %s", error)
        return None
    name = entry_name(source.model_id, source.path, dtype, f"transformers-{transformers.__version__}")
    return CacheEntry(root, name, _UNUSABLE)


def _load_saved(folder: Path, dtype: str) -> Any:
    """Raises ValueError if the folder lacks weights or has others: transformers would draw what it does not find."""
    model, report = _load(str(folder), dtype, output_loading_info=True)
    wrong = {what: names for what, names in report.items() if names}
    if wrong:
        raise ValueError(f"the weights do not fit their configuration: {wrong}")
    return model


def _load(folder_or_id: str, dtype: str, **options: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder_or_id, dtype=dtype, trust_remote_code=False, **options)


def _checkpoint(source: ModelSource) -> dict[str, Any]:
    if source.hub_id is not None:
        return {"folder_or_id": source.hub_id, "revision": source.hub_commit}
    return {"folder_or_id": str(source.path)}


def _has_only_full_attention(config: Any) -> bool:
    """Whether every layer attends to everything before it, without a cap: what varlen_attention computes."""
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    return not capped and set(group_layers_by_attn_type(config)) == {FULL_ATTENTION}


def device_type(wanted: str) -> str:
    """What "auto" means here: an accelerator if there is one."""
    if wanted != "auto":
        return wanted
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator.type if accelerator is not None else "cpu"
