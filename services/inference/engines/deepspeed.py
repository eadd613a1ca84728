"""The engine for models that no single device holds: DeepSpeed cuts the weights, each rank keeps a shard.

The first rank is the service. It alone has the mailbox, the heartbeats and the log; its engine is the plain one over
its shard. The other ranks only `follow`: every step of the generation loop is one that all take together.
"""

import asyncio
import contextlib
import logging
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from services.inference.engines.lockstep import (
    Followers,
    Place,
    check_hashes_alike,
    join_group,
    leave_group,
    mesh_of,
)
from services.inference.engines.port import (
    EngineDeadError,
    EngineLoadError,
    OnOutputs,
    OnProgress,
    StepOutput,
)
from services.inference.engines.transformers import TransformersEngine, TransformersSettings, begin_loop
from shared.chat import ChatTokenizer, locate_model
from shared.errors import SettingsError

_log = logging.getLogger(__name__)
_VERDICT_S = 5.0
"""When a rank is lost, whether this one fails too: what the first rank says of the same cause says it best."""
_LOSS_S = 1.0
"""A broken connection is noticed a moment before the death that broke it."""
_GRACE_S = 3.0
"""For the other ranks to end by themselves, once told."""
_HEADS = ("num_attention_heads", "num_key_value_heads")


@dataclass(frozen=True, slots=True)
class DeepSpeedSettings(TransformersSettings):
    """As for one process, and `ranks` to share the model; None: as many as torchrun started, else one.

    `cache_tokens` are tokens, whatever the ranks: each keeps its heads' part of every one. `device` is the kind of all
    ranks; each takes the one of its local rank. Every rank reads the whole model into its host memory first.
    """

    ranks: int | None = None

    def place(self) -> Place:
        """Where this process stands. Raises SettingsError if torchrun started another number of ranks."""
        given = Place.of(os.environ)
        if given is None:
            return Place(0, self.ranks or 1, 0)
        if self.ranks not in (None, given.ranks):
            raise SettingsError(f"CHATMESH_TENSOR_PARALLEL={self.ranks}, but {given.ranks} ranks were started")
        return given


class DeepSpeedEngine(TransformersEngine):
    """Implements `Engine` in the first rank.

    The ranks live and die together: once one is lost, the engine is dead for good, and `restart` says why.
    """

    def __init__(self, settings: DeepSpeedSettings, tokenizer: ChatTokenizer) -> None:
        super().__init__(settings, tokenizer)
        self._sharded = settings
        self._ranks = 1
        self._followers: Followers | None = None
        self._loss: asyncio.Future[str] | None = None

    async def start(self, on_outputs: OnOutputs, on_progress: OnProgress) -> None:
        place = self._sharded.place()
        self._ranks = place.ranks
        check_installed()
        self._loss = asyncio.get_running_loop().create_future()
        if place.ranks > 1:
            check_hashes_alike(os.environ)
            if Place.of(os.environ) is None:
                self._start_followers(place.ranks)
        loading = asyncio.ensure_future(super().start(on_outputs, on_progress))
        try:
            await self._loaded_or_lost(loading, self._loss)
        finally:
            loading.cancel()

    async def _loaded_or_lost(self, loading: asyncio.Future[None], loss: asyncio.Future[str]) -> None:
        either: set[asyncio.Future[Any]] = {loading, loss}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not loading.done():
            await asyncio.wait({loading}, timeout=_VERDICT_S)
        if not loading.done():
            raise EngineLoadError(f"{loss.result()} while the model was loaded")
        await loading

    async def restart(self) -> None:
        if self._ranks == 1:
            await super().restart()
        else:
            raise EngineDeadError(f"{await self._why_lost()}: the ranks of a model end together")

    async def close(self) -> None:
        if self._followers is not None:
            self._followers.expect_end()
        if self._loss is not None and self._loss.done():
            self._batch_loop = None  # its last step may hang for ever: the memory goes with the process
            await self._end_followers(grace_s=0.0)
            return
        grace_s = 0.0 if self._batch_loop is None else _GRACE_S  # who was still loading hears nothing
        await super().close()
        if self._ranks > 1:
            await self._end_followers(grace_s)
            await asyncio.to_thread(leave_group)

    def _start_followers(self, ranks: int) -> None:
        loop = asyncio.get_running_loop()
        self._followers = Followers(ranks)

        def tell(why: str) -> None:
            loop.call_soon_threadsafe(self._on_loss, why)

        self._followers.start(tell)

    async def _end_followers(self, grace_s: float) -> None:
        if self._followers is not None:
            await asyncio.to_thread(self._followers.stop, grace_s)

    def _on_loss(self, why: str) -> None:
        if self._loss is None or self._loss.done():
            return
        _log.error("%s: this worker ends", why)
        self._loss.set_result(why)
        if self._batch_loop is not None:
            self._batch_loop.give_up(why)
            self._deliver([])  # who holds nothing must hear of it too

    async def _why_lost(self) -> str:
        if self._loss is None:
            raise EngineDeadError("the engine was never started")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOSS_S):
                return await asyncio.shield(self._loss)
        return "the generation loop died"

    def _load(self) -> Any:
        return load_shard(self._sharded, self._sharded.place(), self._followers)


def follow(settings: DeepSpeedSettings, place: Place) -> None:
    """Load this rank's shard, then take every step with the first rank until it says that it was the last.

    Raises EngineError, SettingsError.
    """
    check_installed()
    check_hashes_alike(os.environ)
    loop = begin_loop(settings, load_shard(settings, place), _leave_to_the_first)
    _log.info("rank %d of %d follows", place.rank, place.ranks)
    loop.join()
    loop.stop()
    leave_group()


def check_installed() -> None:
    """Raises EngineLoadError if DeepSpeed is not there: only who shards a model needs it."""
    if find_spec("deepspeed") is None:
        raise EngineLoadError("CHATMESH_ENGINE=deepspeed needs DeepSpeed: install the extra `deepspeed` of chatmesh")


def check_divides(config: Any, ranks: int, model_id: str) -> None:
    """Each rank takes whole heads, the same number. `config`: of a text model. Raises EngineLoadError."""
    heads = {name: count for name in _HEADS if (count := getattr(config, name, None)) is not None}
    uneven = [f"{name}={count}" for name, count in heads.items() if count % ranks]
    if uneven:
        raise EngineLoadError(f"{ranks} ranks cannot share {model_id}, which has {' and '.join(uneven)}")


def check_planned(model: Any, model_id: str) -> None:
    """transformers' cache holds a rank's heads only where its own plan shares them. Raises EngineLoadError."""
    if not any(name.endswith("self_attn.k_proj") for name in getattr(model, "tp_plan", None) or {}):
        raise EngineLoadError(f"{model_id} cannot be shared: transformers has no plan to cut its attention into heads")


def load_shard(settings: DeepSpeedSettings, place: Place, followers: Followers | None = None) -> Any:
    """This rank's part of the model, on its device; every rank must call it. Raises EngineLoadError."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    import torch

    from services.inference.engines.weights import device_type, read_weights, ready_to_generate

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    source = locate_model(settings.model)
    kind = device_type(settings.device)
    if followers is not None:
        followers.serve_rendezvous()
    model = read_weights(source, dtype=settings.dtype, cache_dir=settings.cache_dir)
    if place.ranks > 1:
        check_divides(model.config.get_text_config(), place.ranks, source.model_id)
        check_planned(model, source.model_id)
    try:
        return ready_to_generate(_cut(model, kind, place))
    except (RuntimeError, ValueError, OSError, AssertionError) as error:
        raise EngineLoadError(f"rank {place.rank} cannot take its part of {source.model_id}: {error}") from error


def _cut(model: Any, kind: str, place: Place) -> Any:
    os.environ["DS_ACCELERATOR"] = kind  # else it asks what is there, and warns where it is a CPU
    import deepspeed

    if place.ranks > 1:
        join_group(kind)
        # Else it compiles, at run time, an all-reduce through shared memory for CPUs: gloo needs no compiler.
        deepspeed.ops.__compatible_ops__ = {}
    with _quiet():
        shard = deepspeed.init_inference(
            model, dtype=model.dtype, tensor_parallel={"tp_size": place.ranks}, replace_with_kernel_inject=False
        ).module
    if place.ranks > 1:
        # Where transformers looks for the ranks it shares a model with: continuous batching sizes its cache by them,
        # and hands requests and cancels to all (DistributedHelper). Private: the pin is to one minor version.
        shard._device_mesh = mesh_of(kind, place.ranks)
    return shard


@contextlib.contextmanager
def _quiet() -> Any:
    """DeepSpeed logs to stdout and prints."""
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def _leave_to_the_first(_: list[StepOutput]) -> None:
    """Every rank hears every token; the first one says it."""
