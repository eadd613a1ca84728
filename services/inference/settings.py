"""Settings of the inference service."""

from typing import Literal, Self

from pydantic import Field, model_validator

from services.inference.engines import DeepSpeedSettings, EngineSettings, ScriptedSettings, TransformersSettings
from shared.settings import MeshSettings


class InferenceSettings(MeshSettings):
    """What to serve, with which engine, how many sequences at a time."""

    model: str = Field(
        "", description="Hugging Face id, folder or .gguf file; empty: the bundled SmolLM2-135M-Instruct"
    )
    engine: Literal["transformers", "deepspeed", "scripted"] = Field(
        "transformers", description="deepspeed shares a model among several GPUs; scripted is for load tests only"
    )
    tensor_parallel: int | None = Field(
        None,
        ge=1,
        le=64,
        description="ranks that share the model, with CHATMESH_ENGINE=deepspeed; empty: what torchrun started, else 1",
    )
    slots: int = Field(32, ge=1, le=4096, description="concurrent sequences; more requests wait with their owner")
    cache_tokens: int = Field(32_768, ge=256, description="size of the KV cache over all sequences")
    torch_threads: int | None = Field(None, ge=1, description="CPU threads of torch; empty: its own default")
    device: str = Field("auto", description="cpu, cuda or auto")
    dtype: Literal["bfloat16", "float16", "float32"] = Field(
        "bfloat16", description="of weights and KV cache; float16 for GPUs that compute no bfloat16"
    )
    cache_dir: str = Field(
        "",
        description="where the unpacked weights of .gguf models are kept, 2 bytes a parameter (270 MB for the default "
        "model); empty: $XDG_CACHE_HOME/chatmesh/models, or ~/.cache/chatmesh/models",
    )
    script_text: str | None = Field(
        None, description="what the scripted engine says; empty: words drawn from the prompt"
    )
    script_echo: bool = Field(False, description="the scripted engine says what the last message of a prompt says")
    script_tokens_per_s: float = Field(20.0, gt=0, description="rate of each scripted stream")
    script_first_token_s: float = Field(0.0, ge=0, description="delay before a scripted stream's first token")
    script_length: int | None = Field(None, ge=1, description="tokens of a drawn script; empty: until the limit")
    script_poison: str = Field(
        "", description="a prompt that holds this text kills the scripted engine's loop at its first token"
    )

    @model_validator(mode="after")
    def _only_deepspeed_shares(self) -> Self:
        if (self.tensor_parallel or 1) > 1 and self.engine != "deepspeed":
            raise ValueError(f"CHATMESH_TENSOR_PARALLEL={self.tensor_parallel} needs CHATMESH_ENGINE=deepspeed")
        return self

    def engine_settings(self) -> EngineSettings:
        """What the chosen engine needs to know."""
        if self.engine == "scripted":
            return ScriptedSettings(
                model=self.model,
                slots=self.slots,
                tokens_per_s=self.script_tokens_per_s,
                first_token_delay_s=self.script_first_token_s,
                text=self.script_text,
                echo=self.script_echo,
                length_tokens=self.script_length,
                poison=self.script_poison,
            )
        if self.engine == "deepspeed":
            return self.deepspeed_settings()
        return TransformersSettings(
            model=self.model,
            slots=self.slots,
            cache_tokens=self.cache_tokens,
            threads=self.torch_threads,
            device=self.device,
            dtype=self.dtype,
            cache_dir=self.cache_dir,
        )

    def deepspeed_settings(self) -> DeepSpeedSettings:
        """What every rank needs to know, the same in all of them."""
        return DeepSpeedSettings(
            model=self.model,
            slots=self.slots,
            cache_tokens=self.cache_tokens,
            threads=self.torch_threads,
            device=self.device,
            dtype=self.dtype,
            cache_dir=self.cache_dir,
            ranks=self.tensor_parallel,
        )
