"""The generation loop: one thread that schedules, runs and postprocesses, over transformers' continuous batching.

The manager of transformers 5.23 owns such a thread too, but cancels in silence, sends every token so far with every
step, and loses a request that is added while the thread dies. This loop drives the manager's batch processor itself,
so that each step ends with one list of what is new and each request ends with a reason.

Where several processes hold a shard of the model each (`lockstep.py`), each runs this loop: `prepare_next_batch` begins
with a collective call that gives the first rank's requests, cancels and stop to all, so that all schedule alike.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.generation.continuous_batching.continuous_api import (
    BackgroundThreadStatus,
    ContinuousBatchingManager,
    OutputRouter,
)
from transformers.generation.continuous_batching.requests import GenerationOutput, RequestStatus

from services.inference.engines.choosing import Choice, LogitsKeeper, choose
from services.inference.engines.port import (
    EngineDeadError,
    EngineFullError,
    FinishReason,
    GenerationRequest,
    StepOutput,
)
from shared.telemetry.logs import OUTSPOKEN

_log = logging.getLogger(__name__)

_IDLE_WAIT_S = 0.1
_READY_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 30.0
_RANK_SILENCE_S = 120.0
"""A rank that has not come to the next step for so long hangs; idle turns of the first one are steps too."""
_WARM_UP_ID = "warm-up"

Deliver = Callable[[list[StepOutput]], None]


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What one loop may take.

    `slots` sequences at a time; a cache of `cache_tokens` in pages of `page_tokens`; at most `step_tokens` read by
    one step, so that a long prompt is read in parts and others go on speaking in between.
    """

    slots: int
    cache_tokens: int
    page_tokens: int
    step_tokens: int

    def config(self) -> ContinuousBatchingConfig:
        return ContinuousBatchingConfig(
            page_size=self.page_tokens,
            num_blocks=-(-self.cache_tokens // self.page_tokens),
            max_batch_tokens=max(self.step_tokens, self.slots),
            max_requests_per_batch=self.slots,
            # two batches in flight would double the memory and delay every cancel by a step
            use_async_batching=False,
            cpu_group_timeout=_RANK_SILENCE_S,
        )


@dataclass(slots=True)
class _Progress:
    """How far a live request is: ids already delivered, prompt tokens found in the prefix cache (None: not run)."""

    request: GenerationRequest
    choice: Choice | None
    sent: int = 0
    cached: int | None = None


class _StepRouter(OutputRouter):
    """Keeps what a step says until the step is over."""

    def __init__(self) -> None:
        super().__init__()
        self._said: list[GenerationOutput] = []

    def deliver(self, output: GenerationOutput) -> None:
        self._said.append(output)

    def deliver_batch(self, outputs: list[GenerationOutput]) -> None:
        self._said.extend(outputs)

    def take(self) -> list[GenerationOutput]:
        said, self._said = self._said, []
        return said


class BatchLoop:
    """One life of the loop: started once, stopped or dead once. A revived engine makes a new one.

    Of several ranks the first takes requests and says what was generated; the loops of the others only follow.
    `submit`, `cancel` and `stop` may be called from any thread. `deliver` runs on the loop's thread, once per step
    that brought something.
    """

    def __init__(self, model: Any, limits: BatchLimits, deliver: Deliver) -> None:
        """`model` stays the caller's. Allocates the cache."""
        self._model = model
        self._limits = limits
        self._deliver = deliver
        self._router = _StepRouter()
        self._logits = LogitsKeeper(_room_for_logits(model, limits))
        self._manager = _manager(model, limits, self._router, self._logits)
        self._processor: Any = self._manager.batch_processor
        self._live: dict[str, _Progress] = {}
        self._cancelled: deque[str] = deque()
        self._lock = threading.Lock()  # guards _live and _open: a submit must not fall between death and obituary
        self._open = False
        self._status = self._manager.background_thread_status
        self._wake = threading.Event()
        self._ready = threading.Event()
        self._death: str | None = None  # not the exception: its traceback would keep the cache of a dead loop alive
        self._thread = threading.Thread(target=self._run, name="generation-loop", daemon=True)
        self.steps = 0

    @property
    def alive(self) -> bool:
        return self._open

    def start(self) -> None:
        """Start the thread and wait until it has generated a first token.

        Raises EngineDeadError if it cannot.
        """
        self._thread.start()
        if not self._ready.wait(_READY_TIMEOUT_S) or self._death is not None:
            self._ask_to_stop()
            raise EngineDeadError(f"the engine cannot generate: {self._death or 'no token in two minutes'}")

    def join(self) -> None:
        """Wait until the loop was told to end, by `stop` or by the first rank. Raises EngineDeadError if it died."""
        self._thread.join()
        if self._death is not None:
            raise EngineDeadError(self._death)

    def give_up(self, reason: str) -> None:
        """Say the last word to every live request, and take no more, although a step may hang: `stop` no longer can."""
        self._death = self._death or reason
        self._ask_to_stop()
        self._end_all(reason)

    def stop(self) -> None:
        """End the loop after the current step and wait for it; live requests end with "error".

        Gives the cache's memory back: a successor allocates as much again. Raises EngineDeadError if the step does
        not end within 30 s: it may still work on that memory.
        """
        self._ask_to_stop()
        if self._thread.is_alive():
            self._thread.join(_STOP_TIMEOUT_S)
            if self._thread.is_alive():
                raise EngineDeadError(f"the engine has hung in one step for {_STOP_TIMEOUT_S:.0f} s")
        self._manager.destroy()
        del self._processor, self._manager

    def _ask_to_stop(self) -> None:
        """Takes effect with the next step, in which all ranks hear of it."""
        self._status.request_stop(BackgroundThreadStatus.HARD_STOP, self._manager.distributed_helper.global_rank)
        self._wake.set()

    def submit(self, request: GenerationRequest) -> None:
        """Raises EngineDeadError, EngineFullError; ValueError if the id is in use."""
        with self._lock:
            if not self._open:
                raise EngineDeadError(f"the generation loop does not run: {self._death or 'stopped'}")
            if request.id in self._live:
                raise ValueError(f"request {request.id} runs already")
            if len(self._live) >= self._limits.slots:
                raise EngineFullError(f"all {self._limits.slots} slots are taken")
            self._live[request.id] = _Progress(request, Choice.of(request))
            self._enqueue(request)
        self._wake.set()

    def cancel(self, request_id: str) -> None:
        if request_id in self._live:
            self._cancelled.append(request_id)
            self._wake.set()

    def _enqueue(self, request: GenerationRequest) -> None:
        self._manager.add_request(
            list(request.context_ids),
            request_id=request.id,
            max_new_tokens=request.max_new_tokens,
            streaming=True,
            eos_token_id=sorted(request.eos_ids),
        )

    def _run(self) -> None:
        try:
            _use_device_of(self._model)
            with torch.inference_mode():
                self._warm_up()
                self._open = True
                self._ready.set()
                while self._status.tp_status != BackgroundThreadStatus.HARD_STOP:
                    self._turn()
        except Exception as error:  # noqa: BLE001 - the last of the thread: every request must hear of it
            _log.error("the generation loop died", exc_info=error, extra=OUTSPOKEN)  # it knows ids, no text
            self._death = f"{type(error).__name__}: {error}"
        finally:
            self._ready.set()
            self._end_all(f"the engine's loop ended: {self._death or 'stopped'}")

    def _warm_up(self) -> None:
        """Generate one token, so that the first request finds kernels chosen and buffers touched."""
        self._manager.add_request([0], request_id=_WARM_UP_ID, max_new_tokens=1, eos_token_id=[])
        while not self._router.take():
            self._step()

    def _turn(self) -> None:
        cancelled = self._pass_on_cancels()
        worked = self._step()
        outputs = [output for said in self._router.take() if (output := self._output(said)) is not None]
        outputs += [ended for request_id in cancelled if (ended := self._end(request_id)) is not None]
        if outputs:
            self._deliver(outputs)
        if not worked and self._manager.is_tp_driver:  # other ranks wait for its next step, in the step
            self._wake.wait(_IDLE_WAIT_S)
            self._wake.clear()

    def _pass_on_cancels(self) -> list[str]:
        """Hand cancels to the scheduler, which frees their cache at the beginning of the step that follows."""
        passed: list[str] = []
        while self._cancelled:
            request_id = self._cancelled.popleft()
            self._manager.cancel_request(request_id)
            passed.append(request_id)
        return passed

    def _step(self) -> bool:
        """Schedule, run, choose, postprocess; False if there was nothing to do."""
        if not self._processor.prepare_next_batch():
            return False
        self._note_cached()
        self._processor._generation_step(self._model)
        self._choose()
        self._agree()
        self._processor.update_batch()
        self.steps += 1
        return True

    def _agree(self) -> None:
        """The first rank's tokens are everyone's: logits that differ in their last bit can differ in their highest."""
        drawn = self._processor.inputs_and_outputs.output_ids
        self._manager.distributed_helper.tp_broadcast_from_rank_0(drawn)

    def _note_cached(self) -> None:
        """What a request's first batch does not read although it lies before its end was found in the cache."""
        for future in self._processor.inputs_and_outputs.requests_in_batch:
            progress = self._live.get(future.state.request_id)
            if progress is not None and progress.cached is None:
                progress.cached = future.state.position_offset - future.query_length

    def _choose(self) -> None:
        """Requests whose prompt is read in parts have no logits before its end, and take no row."""
        batch = self._processor.inputs_and_outputs
        speaking = [
            self._live.get(future.state.request_id) for future in batch.requests_in_batch if future.has_new_token
        ]
        choices = [None if progress is None else progress.choice for progress in speaking]
        choose(self._logits.logits(len(choices)), choices, batch.output_ids[0, : len(choices)])

    def _output(self, said: GenerationOutput) -> StepOutput | None:
        """What is new in `said`, which carries everything so far; None if the request is over already."""
        progress = self._live.get(said.request_id)
        if progress is None:
            return None
        new = tuple(said.generated_tokens[progress.sent :])
        progress.sent += len(new)
        finish = _finish(said, progress.request)
        if finish is not None:
            self._forget(said.request_id)
        logprobs = () if progress.choice is None else progress.choice.take(len(new))
        return StepOutput(said.request_id, new, finish, said.error, progress.cached or 0, logprobs)

    def _end(self, request_id: str) -> StepOutput | None:
        """The last word to a cancelled request; None if it had ended by itself."""
        progress = self._forget(request_id)
        if progress is None:
            return None
        return StepOutput(request_id, finish="cancelled", cached_tokens=progress.cached or 0)

    def _forget(self, request_id: str) -> _Progress | None:
        with self._lock:
            return self._live.pop(request_id, None)

    def _end_all(self, error: str) -> None:
        with self._lock:
            self._open = False
            orphans = list(self._live)
            self._live.clear()
        if orphans:
            self._deliver([StepOutput(request_id, finish="error", error=error) for request_id in orphans])


def _room_for_logits(model: Any, limits: BatchLimits) -> torch.Tensor | None:
    """On an accelerator a step can be a captured graph, which leaves its logits where they were at the capture."""
    if model.device.type == "cpu":
        return None
    vocabulary = model.config.get_text_config().vocab_size
    return torch.empty((limits.slots, vocabulary), dtype=torch.float32, device=model.device)


def _manager(model: Any, limits: BatchLimits, router: OutputRouter, logits: LogitsKeeper) -> ContinuousBatchingManager:
    """A manager whose thread is never started: it builds the cache, the scheduler and the batch processor."""
    generation = GenerationConfig(do_sample=False, eos_token_id=-1)  # type: ignore[no-untyped-call]
    manager: ContinuousBatchingManager = model.init_continuous_batching(
        generation_config=generation, continuous_batching_config=limits.config()
    )
    manager.output_router = router
    manager.logit_processor = logits
    manager.warmup()
    return manager


def _use_device_of(model: Any) -> None:
    """Let this thread launch kernels where the model is: it begins with the first device, whatever others chose."""
    if model.device.index is not None:
        torch.accelerator.set_device_index(model.device.index)


def _finish(said: GenerationOutput, request: GenerationRequest) -> FinishReason | None:
    if said.status == RequestStatus.FAILED:
        return "error"
    if said.status != RequestStatus.FINISHED:
        return None
    return "stop" if said.generated_tokens[-1] in request.eos_ids else "length"
