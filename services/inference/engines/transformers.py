"""The engine that runs a real model: transformers' continuous batching behind the port."""

import asyncio
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from services.inference.engines.port import (
    EngineDeadError,
    EngineLoadError,
    GenerationRequest,
    ModelInfo,
    OnOutputs,
    OnProgress,
    StepOutput,
)
from shared.chat import ChatTokenizer, locate_model

if TYPE_CHECKING:  # torch takes seconds to import: `start` does it in its thread, with progress
    from services.inference.engines.batching import BatchLoop, Deliver

_PROGRESS_EVERY_S = 1.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TransformersSettings:
    """How much of the machine the engine takes.

    `threads`: of torch, None for its default. `device`: "auto" takes an accelerator if there is one.
    `dtype`: of weights and cache, by torch's name.
    A sequence can be as long as the window only if `cache_tokens` holds it; a cache that runs full costs time (the
    youngest requests are read again later), not correctness. `cache_dir`: of weights, see `load_weights`.
    """

    model: str = ""
    slots: int = 32
    cache_tokens: int = 32_768
    page_tokens: int = 16
    step_tokens: int = 512
    threads: int | None = None
    device: str = "auto"
    dtype: str = "bfloat16"
    cache_dir: str = ""


class TransformersEngine:
    """Implements `Engine`."""

    def __init__(self, settings: TransformersSettings, tokenizer: ChatTokenizer) -> None:
        """`tokenizer` is that of `settings.model`. Nothing is loaded before `start`."""
        self._settings = settings
        self._info = ModelInfo(
            id=tokenizer.model_id,
            revision=tokenizer.revision,
            context_window=min(tokenizer.context_window, settings.cache_tokens),
            slots=settings.slots,
        )
        self._past_steps = 0
        self._batch_loop: BatchLoop | None = None
        self._asyncio_loop: asyncio.AbstractEventLoop | None = None
        self._on_outputs: OnOutputs | None = None
        self.model: Any = None

    @property
    def info(self) -> ModelInfo:
        return self._info

    @property
    def steps(self) -> int:
        return self._past_steps + (self._batch_loop.steps if self._batch_loop else 0)

    @property
    def alive(self) -> bool:
        return self._batch_loop is not None and self._batch_loop.alive

    async def start(self, on_outputs: OnOutputs, on_progress: OnProgress) -> None:
        self._asyncio_loop = asyncio.get_running_loop()
        self._on_outputs = on_outputs
        self.model = await _with_progress(f"loading {self._info.id}", self._load, on_progress)
        await _with_progress(f"warming {self._info.id} up", self._begin, on_progress)

    async def restart(self) -> None:
        if self.model is None:
            raise EngineDeadError("the engine was never started")
        await self.close()
        await asyncio.to_thread(self._begin)

    async def close(self) -> None:
        loop, self._batch_loop = self._batch_loop, None
        if loop is not None:
            await asyncio.to_thread(loop.stop)
            self._past_steps += loop.steps

    def submit(self, request: GenerationRequest) -> None:
        if self._batch_loop is None:
            raise EngineDeadError("the engine is not started")
        request.check_fits(self._info.context_window)
        if request.seed is None:
            request = replace(request, seed=secrets.randbits(63))
        self._batch_loop.submit(request)

    def cancel(self, request_id: str) -> None:
        if self._batch_loop is not None:
            self._batch_loop.cancel(request_id)

    def _load(self) -> Any:
        # Read when tqdm is imported, by transformers: bars of it belong in no service's log.
        os.environ.setdefault("TQDM_DISABLE", "1")
        import torch

        from services.inference.engines.weights import load_weights

        if self._settings.threads is not None:
            torch.set_num_threads(self._settings.threads)
        source = locate_model(self._settings.model)
        return load_weights(
            source, device=self._settings.device, dtype=self._settings.dtype, cache_dir=self._settings.cache_dir
        )

    def _begin(self) -> None:
        self._batch_loop = begin_loop(self._settings, self.model, self._deliver)

    def _deliver(self, outputs: list[StepOutput]) -> None:
        """Runs on the generation thread: one hop to the asyncio loop per step, whatever the number of requests."""
        if self._asyncio_loop is None or self._on_outputs is None:
            raise EngineDeadError("outputs before start")
        self._asyncio_loop.call_soon_threadsafe(self._on_outputs, outputs)


def begin_loop(settings: TransformersSettings, model: Any, deliver: "Deliver") -> "BatchLoop":
    """A generation loop that runs. Raises EngineLoadError if its cache cannot be made, EngineDeadError."""
    from services.inference.engines.batching import BatchLimits, BatchLoop

    limits = BatchLimits(
        slots=settings.slots,
        cache_tokens=settings.cache_tokens,
        page_tokens=settings.page_tokens,
        step_tokens=settings.step_tokens,
    )
    try:
        loop = BatchLoop(model, limits, deliver)
    except RuntimeError as error:  # torch.OutOfMemoryError is one; the CPU's allocator raises it plain
        cache = f"a cache of {limits.cache_tokens:,} tokens for {limits.slots:,} slots"
        raise EngineLoadError(f"{cache} cannot be made (CHATMESH_CACHE_TOKENS, CHATMESH_SLOTS): {error}") from error
    loop.start()
    return loop


async def _with_progress(what: str, work: Callable[[], T], on_progress: OnProgress) -> T:
    """Run `work` in a thread and say every second that it still goes on."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    started = asyncio.get_running_loop().time()
    on_progress(f"{what} …")
    while True:
        done, _ = await asyncio.wait({task}, timeout=_PROGRESS_EVERY_S)
        elapsed_s = asyncio.get_running_loop().time() - started
        if done:
            on_progress(f"{what}: done in {elapsed_s:.1f} s" if task.exception() is None else f"{what}: failed")
            return task.result()
        on_progress(f"{what} … {elapsed_s:.0f} s")
