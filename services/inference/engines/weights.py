"""A model's weights, from its files to the device."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM, GgufConfig
from transformers.generation.continuous_batching.cache import group_layers_by_attn_type
from transformers.generation.continuous_batching.cache_allocators import FULL_ATTENTION
from transformers.utils import logging

from services.inference.engines.attention import use_varlen_attention
from services.inference.engines.port import EngineLoadError
from shared.chat import ModelSource


def load_weights(source: ModelSource, *, device: str) -> Any:
    """The weights of `source` in bfloat16; blocks, and needs the network for a Hub model.

    `device` is a torch device or "auto". GGUF blocks are unpacked: on a CPU dense bfloat16 is several times faster
    than matmuls over blocks. Code that comes with a model is never run.
    Raises EngineLoadError.
    """
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            **_place(source), dtype=torch.bfloat16, trust_remote_code=False
        )
        model = model.to(_device(device)).eval()
        if model.device.type == "cpu" and _has_only_full_attention(model.config.get_text_config()):
            use_varlen_attention()
    except (OSError, ValueError, RuntimeError, ImportError, KeyError) as error:
        raise EngineLoadError(f"the weights of {source.model_id} cannot be loaded: {error}") from error
    return model


def _place(source: ModelSource) -> dict[str, Any]:
    if source.is_gguf:
        return {
            "pretrained_model_name_or_path": str(source.path.parent),
            "gguf_file": source.path.name,
            "quantization_config": GgufConfig(dequantize=True),
        }
    if source.hub_id is not None:
        return {"pretrained_model_name_or_path": source.hub_id, "revision": source.hub_commit}
    return {"pretrained_model_name_or_path": str(source.path)}


def _has_only_full_attention(config: Any) -> bool:
    """Whether every layer attends to everything before it, without a cap: what varlen_attention computes."""
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    return not capped and set(group_layers_by_attn_type(config)) == {FULL_ATTENTION}


def _device(wanted: str) -> str:
    if wanted != "auto":
        return wanted
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator.type if accelerator is not None else "cpu"
